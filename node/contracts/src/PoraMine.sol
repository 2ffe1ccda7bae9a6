// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {AccessControlEnumerable} from "@openzeppelin/contracts/access/extensions/AccessControlEnumerable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {BlockHashes} from "./BlockHashes.sol";
import {MineRange, MineRanges, Pora, PoraAnswer, Seal} from "./Pora.sol";
import "./Types.sol";

/// Checks answers of miners in full and has the accepted ones rewarded.
contract PoraMine is AccessControlEnumerable, Initializable {
    using MineRanges for MineRange;

    event NewMinerId(bytes32 indexed minerId, address indexed beneficiary);
    event UpdateMinerId(bytes32 indexed minerId, address indexed from, address indexed to);
    event NewSubmission(uint256 indexed epoch, bytes32 indexed minerId, uint256 epochIndex, uint256 recallPosition);

    struct InitialParams {
        uint256 difficulty;
        uint256 targetMineBlocks;
        uint256 targetSubmissions;
        uint64 maxShards;
        uint256 nSubtasks;
        uint256 subtaskInterval;
    }

    // Bits of the constructor's argument.
    uint256 private constant NO_DATA_SEAL = 0x1;
    uint256 private constant NO_DATA_PROOF = 0x2;
    uint256 private constant FIXED_DIFFICULTY = 0x4;

    /// Who may simulate computeWorkerContext.
    address public constant computeWorkerContextCaller = address(0x0A);
    uint64 public constant poraVersion = 1;
    /// Targets are adjusted without their lowest bits, which leaves room for the products.
    uint256 private constant ADJUST_SHIFT = 16;
    uint256 private constant MAX_ADJUSTED = type(uint256).max >> ADJUST_SHIFT;
    uint256 private constant MAX_TARGET_MINE_BLOCKS = 256;

    /// Whether answers carry sealed data; raw data otherwise.
    bool public immutable sealDataEnabled;
    /// Whether answers prove their data against the flow root.
    bool public immutable dataProofEnabled;
    bool public immutable fixedDifficulty;

    address public flow;
    address public reward;

    /// Largest hash that answers, before it is scaled to the answer's range.
    uint256 public poraTarget;
    uint256 public minDifficulty;
    uint256 public difficultyAdjustRatio;
    uint64 public maxShards;

    uint256 public lastMinedEpoch;
    /// Answers accepted in lastMinedEpoch.
    uint256 public currentSubmissions;
    uint256 public targetSubmissions;
    uint256 public targetSubmissionsNextEpoch;

    /// Blocks a subtask may be answered for.
    uint256 public targetMineBlocks;
    uint256 public nSubtasks;
    uint256 public nSubtasksNextEpoch;
    /// Blocks from the start of a subtask to the start of the next.
    uint256 public subtaskInterval;
    uint256 public subtaskIntervalNextEpoch;

    mapping(bytes32 minerId => address) public beneficiaries;
    mapping(bytes32 poraHash => bool) private answered;

    constructor(uint256 settings) {
        sealDataEnabled = settings & NO_DATA_SEAL == 0;
        dataProofEnabled = settings & NO_DATA_PROOF == 0;
        fixedDifficulty = settings & FIXED_DIFFICULTY != 0;
    }

    function initialize(address flow_, address reward_, InitialParams calldata params) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, msg.sender);
        _grantRole(PARAMS_ADMIN_ROLE, msg.sender);
        flow = flow_;
        reward = reward_;
        poraTarget = fixedDifficulty ? type(uint256).max : type(uint256).max / params.difficulty;
        difficultyAdjustRatio = 20;
        maxShards = params.maxShards;
        targetMineBlocks = params.targetMineBlocks;
        targetSubmissions = targetSubmissionsNextEpoch = params.targetSubmissions;
        nSubtasks = nSubtasksNextEpoch = params.nSubtasks;
        subtaskInterval = subtaskIntervalNextEpoch = params.subtaskInterval;
    }

    // Miner ids -------------------------------------------------------------------------------------------------------

    /// Registers a new miner id that nobody can know before its block.
    function requestMinerId(address beneficiary, uint64 seed) external returns (bytes32 minerId) {
        minerId = keccak256(abi.encodePacked(blockhash(block.number - 1), msg.sender, seed));
        require(beneficiaries[minerId] == address(0), "MinerId has registered");
        beneficiaries[minerId] = beneficiary;
        emit NewMinerId(minerId, beneficiary);
    }

    function transferBeneficial(address to, bytes32 minerId) external {
        require(beneficiaries[minerId] == msg.sender, "Sender does not own minerId");
        beneficiaries[minerId] = to;
        emit UpdateMinerId(minerId, msg.sender, to);
    }

    // Answers ---------------------------------------------------------------------------------------------------------

    /// Checks an answer. Anyone may send it; the reward goes to the beneficiary of its miner id.
    function submit(PoraAnswer calldata answer) external {
        bytes32 minerId = answer.minerId;
        address beneficiary = beneficiaryOf(minerId);
        MineContext memory context = enterEpoch();
        bytes32 subtaskDigest = subtaskInWindow(context, minerId);

        require(answer.contextDigest == context.digest, "Inconsistent mining digest");
        require(context.digest != EMPTY_HASH, "Empty digest can not mine");
        uint256 epochIndex = currentSubmissions;
        require(epochIndex < 2 * targetSubmissions, "Epoch has enough submissions");

        answer.range.check(context.flowLength);
        checkSealedContext(answer);
        require(answer.range.numShards() <= maxShards, "Exceeding the allowed number of shards");
        checkData(answer, context.flowRoot);

        bytes32 poraHash = Pora.hash(answer, subtaskDigest);
        require(
            uint256(poraHash) <= answer.range.target(poraTarget, context.flowLength), "Do not reach target quality"
        );
        require(!answered[poraHash], "Answer has been submitted");
        answered[poraHash] = true;
        lastMinedEpoch = context.epoch;
        currentSubmissions = epochIndex + 1;

        uint256 position = answer.recallPosition;
        IReward(reward).claimMineReward(position / SECTORS_PER_PRICING, payable(beneficiary), minerId);
        emit NewSubmission(context.epoch, minerId, epochIndex, position);
    }

    /// What a miner id may work on in the next block. To be simulated by eth_call from computeWorkerContextCaller. The
    /// target is zero outside the window of the id's subtask and in a full epoch; the subtask digest only outside.
    function computeWorkerContext(bytes32 minerId)
        external
        returns (MineContext memory context, uint256 target, bytes32 subtaskDigest, uint64 shards)
    {
        require(msg.sender == computeWorkerContextCaller, "Only authorized caller can compute worker context");
        beneficiaryOf(minerId);
        context = enterEpoch();
        shards = maxShards;

        uint256 start = subtaskStart(context, minerId);
        if (block.number > start && block.number <= start + targetMineBlocks) {
            subtaskDigest = subtaskDigestOf(context, start);
            if (currentSubmissions < 2 * targetSubmissions) target = poraTarget;
        }
    }

    /// Whether the epoch takes another answer.
    function canSubmit() external returns (bool) {
        MineContext memory context = IFlow(flow).makeContextWithResult();
        return context.epoch > lastMinedEpoch || currentSubmissions < 2 * targetSubmissions;
    }

    function beneficiaryOf(bytes32 minerId) private view returns (address beneficiary) {
        require(minerId != bytes32(0), "MinerId cannot be zero");
        beneficiary = beneficiaries[minerId];
        require(beneficiary != address(0), "MinerId does not registered");
    }

    /// The seal is made for the epoch that its last sector belongs to.
    function checkSealedContext(PoraAnswer calldata answer) private view {
        EpochRange memory range = IFlow(flow).getEpochRange(answer.sealedContextDigest);
        uint256 end = answer.recallPosition + SECTORS_PER_SEAL;
        require(range.start < end && range.end >= end, "Invalid sealed context digest");
    }

    /// The data, unsealed, lies in the flow at the recalled position.
    function checkData(PoraAnswer calldata answer, bytes32 flowRoot) private view {
        bytes32[128] memory data = sealDataEnabled
            ? Seal.unseal(answer.sealedData, answer.minerId, answer.sealedContextDigest, answer.recallPosition)
            : answer.sealedData;
        if (dataProofEnabled) {
            uint256 sealIndex = answer.recallPosition / SECTORS_PER_SEAL;
            bytes32 root = Seal.climb(Seal.root(data), sealIndex, answer.merkleProof);
            require(root == flowRoot, "Inconsistent merkle root");
        }
    }

    // Subtasks --------------------------------------------------------------------------------------------------------

    /// Block after which the subtask that a miner id drew in this epoch may be answered.
    function subtaskStart(MineContext memory context, bytes32 minerId) private view returns (uint256) {
        uint256 index = uint256(keccak256(abi.encode(context.digest, minerId))) % nSubtasks;
        return context.mineStart + index * subtaskInterval;
    }

    function subtaskDigestOf(MineContext memory context, uint256 start) private view returns (bytes32) {
        return keccak256(abi.encode(context.digest, BlockHashes.hashOf(start)));
    }

    function subtaskInWindow(MineContext memory context, bytes32 minerId) private view returns (bytes32) {
        uint256 start = subtaskStart(context, minerId);
        require(block.number > start, "Earlier than expected subtask start block.");
        require(block.number <= start + targetMineBlocks, "Mine deadline exceed");
        return subtaskDigestOf(context, start);
    }

    // Epochs and difficulty -------------------------------------------------------------------------------------------

    /// Makes the context; in an epoch that has no answer yet, adjusts the target by the answers of the last mined
    /// epoch and lets pending parameters take effect.
    function enterEpoch() private returns (MineContext memory context) {
        context = IFlow(flow).makeContextWithResult();
        uint256 lastEpoch = lastMinedEpoch;
        require(context.epoch >= lastEpoch, "Internal error: epoch number decrease");
        if (context.epoch == lastEpoch) return context;

        if (lastEpoch > 0 && !fixedDifficulty) adjustDifficulty();
        currentSubmissions = 0;
        targetSubmissions = targetSubmissionsNextEpoch;
        nSubtasks = nSubtasksNextEpoch;
        subtaskInterval = subtaskIntervalNextEpoch;
    }

    /// Moves the target one part in difficultyAdjustRatio towards the one that would have met the number of answers
    /// aimed at, by a factor of two at most.
    function adjustDifficulty() private {
        uint256 target = poraTarget >> ADJUST_SHIFT;
        uint256 ratio = difficultyAdjustRatio;
        uint256 expected = currentSubmissions > 0 ? target * targetSubmissions / currentSubmissions : MAX_ADJUSTED;
        uint256 adjusted = (target * (ratio - 1) + expected) / ratio;

        if (adjusted < target / 2) adjusted = target / 2;
        if (adjusted > target * 2) adjusted = target * 2;
        if (adjusted > MAX_ADJUSTED) adjusted = MAX_ADJUSTED;
        poraTarget = withinMinDifficulty(adjusted << ADJUST_SHIFT);
    }

    function withinMinDifficulty(uint256 target) private view returns (uint256) {
        if (minDifficulty == 0) return target;
        uint256 bound = type(uint256).max / minDifficulty;
        return target < bound ? target : bound;
    }

    // Parameters ------------------------------------------------------------------------------------------------------

    function setTargetMineBlocks(uint256 blocks) external onlyRole(PARAMS_ADMIN_ROLE) {
        require(blocks <= MAX_TARGET_MINE_BLOCKS, "target mine block must <= 256");
        targetMineBlocks = blocks;
    }

    function setTargetSubmissions(uint256 submissions) external onlyRole(PARAMS_ADMIN_ROLE) {
        targetSubmissionsNextEpoch = submissions;
        if (lastMinedEpoch == 0) targetSubmissions = submissions;
    }

    function setNumSubtasks(uint256 count) external onlyRole(PARAMS_ADMIN_ROLE) {
        checkSubtasks(count, subtaskIntervalNextEpoch);
        nSubtasksNextEpoch = count;
        if (lastMinedEpoch == 0) nSubtasks = count;
    }

    function setSubtaskInterval(uint256 interval) external onlyRole(PARAMS_ADMIN_ROLE) {
        checkSubtasks(nSubtasksNextEpoch, interval);
        subtaskIntervalNextEpoch = interval;
        if (lastMinedEpoch == 0) subtaskInterval = interval;
    }

    /// The window of the last subtask has to end before the next epoch begins.
    function checkSubtasks(uint256 count, uint256 interval) private view {
        require(count > 0, "Number of subtasks must be positive");
        uint256 end = (count - 1) * interval + targetMineBlocks + 1;
        require(end < IFlow(flow).blocksPerEpoch(), "Subtasks do not fit into an epoch");
    }

    function setDifficultyAdjustRatio(uint256 ratio) external onlyRole(PARAMS_ADMIN_ROLE) {
        require(ratio > 0, "Adjust ratio must be positive");
        difficultyAdjustRatio = ratio;
    }

    function setMaxShards(uint64 shards) external onlyRole(PARAMS_ADMIN_ROLE) {
        require(shards > 0 && shards & (shards - 1) == 0, "Max shards must be a power of two");
        maxShards = shards;
    }

    function setMinDifficulty(uint256 difficulty) external onlyRole(PARAMS_ADMIN_ROLE) {
        minDifficulty = difficulty;
        poraTarget = withinMinDifficulty(poraTarget);
    }
}
