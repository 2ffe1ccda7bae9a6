// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {AccessControlEnumerable} from "@openzeppelin/contracts/access/extensions/AccessControlEnumerable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {BlockHashes} from "./BlockHashes.sol";
import {DigestHistory} from "./DigestHistory.sol";
import {FlowTree} from "./FlowTree.sol";
import "./Types.sol";

/// The one array of sectors that all files are appended to, cut into mining epochs.
contract FixedPriceFlow is AccessControlEnumerable, Initializable, Pausable {
    using FlowTree for FlowTree.Tree;

    event Submit(
        address indexed sender,
        bytes32 indexed identity,
        uint256 submissionIndex,
        uint256 startPos,
        uint256 length,
        SubmissionData submission
    );
    event NewEpoch(
        address indexed sender,
        uint256 indexed index,
        bytes32 startMerkleRoot,
        uint256 submissionIndex,
        uint256 flowLength,
        bytes32 context
    );

    error NotEnoughFee(uint256 price, uint256 sectors, uint256 paid);

    uint256 private constant ROOT_AVAILABLE_WINDOW = 1000;
    uint256 private constant MAX_HEIGHT_SPREAD = 4;
    uint256 private constant MAX_HEIGHT = 64;

    /// Blocks between initialize and the first block that takes submissions.
    uint256 public immutable deployDelay;

    uint256 public blocksPerEpoch;
    uint256 public firstBlock;
    address public rootHistory;
    address public market;

    /// Files submitted so far, and the index of the next one.
    uint256 public submissionIndex;
    uint256 public epoch;
    /// First sector that no epoch covers yet.
    uint256 public epochStartPosition;

    FlowTree.Tree private flow;
    MineContext private context;
    mapping(bytes32 digest => EpochRange) private epochRanges;
    EpochRangeWithContextDigest[] private epochRangeHistory;
    mapping(uint256 index => bytes32) private rootByTxSeq;

    constructor(uint256 deployDelay_) {
        deployDelay = deployDelay_;
    }

    function initialize(address market_, uint256 blocksPerEpoch_) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, msg.sender);
        _grantRole(PAUSER_ROLE, msg.sender);
        market = market_;
        flow.initialize();
        context.digest = EMPTY_HASH;
        context.flowLength = 1;
        fillParams(blocksPerEpoch_, block.number + deployDelay, address(new DigestHistory(ROOT_AVAILABLE_WINDOW)));
    }

    /// Fills parameters that are still zero; it changes none that are set, so anyone may call it.
    function setParams(uint256 blocksPerEpoch_, uint256 firstBlock_, address rootHistory_) external {
        fillParams(blocksPerEpoch_, firstBlock_, rootHistory_);
    }

    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    // Submissions -----------------------------------------------------------------------------------------------------

    /// Appends a file. The fee is a price per sector of its padded size; what is sent beyond it stays here and serves
    /// the next submission. Returns the index of the file, the hash of its packed node roots, its first sector and its
    /// sectors.
    function submit(Submission calldata submission)
        external
        payable
        returns (uint256 index, bytes32 digest, uint256 startIndex, uint256 length)
    {
        return append(submission);
    }

    function batchSubmit(Submission[] calldata submissions)
        external
        payable
        returns (
            uint256[] memory indexes,
            bytes32[] memory digests,
            uint256[] memory startIndexes,
            uint256[] memory lengths
        )
    {
        uint256 count = submissions.length;
        indexes = new uint256[](count);
        digests = new bytes32[](count);
        startIndexes = new uint256[](count);
        lengths = new uint256[](count);
        for (uint256 i = 0; i < count; i++) {
            (indexes[i], digests[i], startIndexes[i], lengths[i]) = append(submissions[i]);
        }
    }

    function append(Submission calldata submission)
        private
        whenNotPaused
        returns (uint256 index, bytes32 digest, uint256 startIndex, uint256 sectors)
    {
        require(block.number >= firstBlock, "Contract has not launched.");
        require(isValid(submission), "Invalid submission");
        SubmissionData calldata data = submission.data;
        sectors = capacityOf(data.nodes);
        payMarket(sectors);
        createEpochs(type(uint256).max);

        uint256 before = flow.length;
        startIndex = place(data.nodes, sectors);
        IMarket(market).chargeFee(before, sectors, startIndex - before);

        index = submissionIndex++;
        rootByTxSeq[index] = flow.root();
        digest = identityOf(data.nodes);
        emit Submit(submission.submitter, digest, index, startIndex, sectors, data);
    }

    /// Sends the fee of that many sectors to the market, out of the whole balance of this contract.
    function payMarket(uint256 sectors) private {
        uint256 price = IMarket(market).pricePerSector();
        uint256 fee = sectors * price;
        if (fee > address(this).balance) revert NotEnoughFee(price, sectors, address(this).balance);
        Address.sendValue(payable(market), fee);
    }

    /// Appends the subtrees and returns the first sector of the first. A file that is smaller than a load and would
    /// straddle two starts at the next load.
    function place(SubmissionNode[] calldata nodes, uint256 sectors) private returns (uint256 start) {
        uint256 unit = 1 << nodes[0].height;
        uint256 aligned = (flow.length + unit - 1) / unit * unit;
        bool straddles = aligned / SECTORS_PER_LOAD != (aligned + sectors - 1) / SECTORS_PER_LOAD;
        if (straddles && aligned % SECTORS_PER_LOAD != 0) flow.alignTo(LG_SECTORS_PER_LOAD);
        start = flow.insertNode(nodes[0].root, nodes[0].height);
        for (uint256 i = 1; i < nodes.length; i++) {
            flow.insertNode(nodes[i].root, nodes[i].height);
        }
    }

    /// Whether the nodes are the canonical cut of a file of data.length bytes. An increasing height spread underflows
    /// and so reverts without a text.
    function isValid(Submission calldata submission) private pure returns (bool) {
        SubmissionData calldata data = submission.data;
        SubmissionNode[] calldata nodes = data.nodes;
        if (submission.submitter == address(0) || nodes.length == 0) return false;

        uint256 top = nodes[0].height;
        if (top - nodes[nodes.length - 1].height >= MAX_HEIGHT_SPREAD || top >= MAX_HEIGHT) return false;
        for (uint256 i = 1; i < nodes.length; i++) {
            if (nodes[i].height >= nodes[i - 1].height) return false;
        }

        uint256 capacity = capacityOf(nodes);
        // The largest number of sectors that would have been padded to less.
        uint256 low = capacity < 16 ? capacity - 1 : nodes.length == 1 ? capacity - capacity / 16 : capacity - (1 << (top - 3));
        return data.length <= capacity * BYTES_PER_SECTOR && data.length > low * BYTES_PER_SECTOR;
    }

    function capacityOf(SubmissionNode[] calldata nodes) private pure returns (uint256 sectors) {
        for (uint256 i = 0; i < nodes.length; i++) sectors += 1 << nodes[i].height;
    }

    function identityOf(SubmissionNode[] calldata nodes) private pure returns (bytes32) {
        bytes32[] memory roots = new bytes32[](nodes.length);
        for (uint256 i = 0; i < nodes.length; i++) roots[i] = nodes[i].root;
        return keccak256(abi.encodePacked(roots));
    }

    // Epochs ----------------------------------------------------------------------------------------------------------

    function makeContext() external {
        createEpochs(type(uint256).max);
    }

    /// Creates at most count + 1 epochs.
    function makeContextFixedTimes(uint256 count) external {
        createEpochs(count);
    }

    function makeContextWithResult() external returns (MineContext memory) {
        createEpochs(type(uint256).max);
        return context;
    }

    /// Creates the epochs that have begun since the last call, at most limit + 1 of them.
    function createEpochs(uint256 limit) private {
        for (uint256 i = 0; createEpoch() && i < limit; i++) {}
    }

    /// Creates the next epoch if a block after its first one is there.
    function createEpoch() private returns (bool created) {
        uint256 nextEpoch = epoch + 1;
        uint256 start = firstBlock + nextEpoch * blocksPerEpoch;
        if (start >= block.number) return false;

        bytes32 root = currentRoot();
        uint256 length = flow.length;
        DigestHistory(rootHistory).insert(root);

        bytes32 blockDigest = EMPTY_HASH;
        bytes32 digest = EMPTY_HASH;
        // The hash of an older block is out of reach. Its epoch covers no sectors and cannot be mined.
        if (start + BLOCK_HISTORY >= block.number) {
            blockDigest = BlockHashes.hashOf(start);
            digest = keccak256(abi.encode(blockDigest, root, length));
            EpochRange memory range = EpochRange(uint128(epochStartPosition), uint128(length));
            epochRanges[digest] = range;
            epochRangeHistory.push(EpochRangeWithContextDigest(range.start, range.end, digest));
            epochStartPosition = length;
        }

        epoch = nextEpoch;
        context = MineContext(nextEpoch, start, root, length, blockDigest, digest);
        emit NewEpoch(msg.sender, nextEpoch, root, submissionIndex, length, digest);
        return true;
    }

    /// The root after the last submission, without hashing: it was stored then.
    function currentRoot() private view returns (bytes32) {
        return submissionIndex == 0 ? bytes32(0) : rootByTxSeq[submissionIndex - 1];
    }

    function fillParams(uint256 blocksPerEpoch_, uint256 firstBlock_, address rootHistory_) private {
        if (blocksPerEpoch == 0) blocksPerEpoch = blocksPerEpoch_;
        if (firstBlock == 0) firstBlock = firstBlock_;
        if (rootHistory == address(0)) rootHistory = rootHistory_;
    }

    // Views -----------------------------------------------------------------------------------------------------------

    /// The context as stored; it lags until somebody makes one.
    function getContext() external view returns (MineContext memory) {
        return context;
    }

    function getEpochRange(bytes32 digest) external view returns (EpochRange memory) {
        return epochRanges[digest];
    }

    function getEpochRangeHistory(uint256 index) external view returns (EpochRangeWithContextDigest memory) {
        return epochRangeHistory[index];
    }

    /// The epoch range that a sector lies in, after making the context. Meant for eth_call.
    function queryContextAtPosition(uint128 position) external returns (EpochRangeWithContextDigest memory range) {
        createEpochs(type(uint256).max);
        require(position < flow.length, "Queried position exceeds upper bound");

        // Ranges tile the flow, so the wanted one is the first that ends behind the position.
        uint256 low = 0;
        uint256 high = epochRangeHistory.length;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (epochRangeHistory[middle].end > position) high = middle;
            else low = middle + 1;
        }
        require(low < epochRangeHistory.length, "Can not find proper context");
        return epochRangeHistory[low];
    }

    function getFlowRootByTxSeq(uint256 index) external view returns (bytes32) {
        return rootByTxSeq[index];
    }

    /// The root, hashed anew from the tree's right edge.
    function computeFlowRoot() external view returns (bytes32) {
        return flow.root();
    }

    function numSubmissions() external view returns (uint256) {
        return submissionIndex;
    }

    /// Length in sectors, and levels of the tree.
    function tree() external view returns (uint256 currentLength, uint256 unstagedHeight) {
        return (flow.length, flow.levels());
    }
}
