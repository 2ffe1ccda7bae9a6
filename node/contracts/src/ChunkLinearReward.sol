// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {PullPayment} from "./PullPayment.sol";
import "./Types.sol";

/// Fees by pricing chunk of 8 GiB, released linearly from the moment a chunk is full, half of what is released and
/// unclaimed to each accepted answer, and a flat base reward out of donations besides.
contract ChunkLinearReward is Initializable, PullPayment {
    event DistributeReward(
        uint256 indexed pricingIndex, address indexed beneficiary, bytes32 indexed minerId, uint256 amount
    );

    struct Reward {
        uint128 lockedReward;
        uint128 claimableReward;
        uint128 distributedReward;
        /// When the chunk was full; zero before.
        uint40 startTime;
        uint40 lastUpdate;
    }

    uint256 private constant BPS = 10_000;
    uint256 private constant FIRST_SEARCH_BOUND = 1024;

    uint256 public immutable releaseSeconds;

    address public market;
    address public mine;
    mapping(uint256 pricingIndex => Reward) public rewards;
    /// Wei per accepted answer, as long as donations last.
    uint256 public baseReward;
    /// Donations not paid out yet.
    uint256 public totalBaseReward;
    uint256 public serviceFeeRateBps;
    address public treasury;
    address public foundationAdmin;

    modifier onlyFoundationAdmin() {
        require(msg.sender == foundationAdmin, "Not foundation admin");
        _;
    }

    constructor(uint256 releaseSeconds_) {
        releaseSeconds = releaseSeconds_;
    }

    function initialize(address market_, address mine_) external initializer {
        market = market_;
        mine = mine_;
        foundationAdmin = msg.sender;
        treasury = msg.sender;
    }

    function setBaseReward(uint256 baseReward_) external onlyFoundationAdmin {
        baseReward = baseReward_;
    }

    function setServiceFeeRate(uint256 bps) external onlyFoundationAdmin {
        serviceFeeRateBps = bps;
    }

    function setTreasury(address treasury_) external onlyFoundationAdmin {
        treasury = treasury_;
    }

    function setFoundationAdmin(address admin) external onlyFoundationAdmin {
        foundationAdmin = admin;
    }

    /// The only source of the base reward.
    function donate() external payable {
        totalBaseReward += msg.value;
    }

    // Fees in ---------------------------------------------------------------------------------------------------------

    /// Spreads the value, less the service fee, evenly over sectors [beforeLength, beforeLength + chargedSectors).
    /// Rounding dust stays here.
    function fillReward(uint256 beforeLength, uint256 chargedSectors) external payable {
        require(msg.sender == market, "Sender does not have permission");
        uint256 serviceFee = msg.value * serviceFeeRateBps / BPS;
        uint256 rest = msg.value - serviceFee;
        uint256 end = beforeLength + chargedSectors;
        uint256 first = beforeLength / SECTORS_PER_PRICING;
        uint256 last = (end - 1) / SECTORS_PER_PRICING;

        if (first == last) {
            addToChunk(first, rest, end);
        } else {
            uint256 perChunk = rest * SECTORS_PER_PRICING / chargedSectors;
            uint256 headSectors = (first + 1) * SECTORS_PER_PRICING - beforeLength;
            uint256 tailSectors = end - last * SECTORS_PER_PRICING;
            addToChunk(first, perChunk * headSectors / SECTORS_PER_PRICING, end);
            for (uint256 i = first + 1; i < last; i++) addToChunk(i, perChunk, end);
            addToChunk(last, perChunk * tailSectors / SECTORS_PER_PRICING, end);
        }
        if (serviceFee > 0) Address.sendValue(payable(treasury), serviceFee);
    }

    /// Locks an amount in a chunk, and starts its release if the flow, now `end` sectors long, has filled it.
    function addToChunk(uint256 pricingIndex, uint256 amount, uint256 end) private {
        Reward storage reward = rewards[pricingIndex];
        require(reward.startTime == 0, "Reward item has been initialized");
        uint256 locked = reward.lockedReward + amount;
        require(locked <= type(uint128).max, "Reward overflow");
        reward.lockedReward = uint128(locked);
        if (end >= (pricingIndex + 1) * SECTORS_PER_PRICING) {
            reward.startTime = uint40(block.timestamp);
            reward.lastUpdate = uint40(block.timestamp);
        }
    }

    // Rewards out -----------------------------------------------------------------------------------------------------

    /// Credits the beneficiary with half of what the chunk has released and nobody claimed, and the base reward.
    function claimMineReward(uint256 pricingIndex, address payable beneficiary, bytes32 minerId) external {
        require(msg.sender == mine, "Sender does not have permission");
        Reward memory reward = rewards[pricingIndex];

        uint256 released = newlyReleased(reward);
        reward.lockedReward -= uint128(released);
        reward.claimableReward += uint128(released);
        reward.lastUpdate = uint40(block.timestamp);

        uint256 amount = 0;
        if (reward.startTime != 0) {
            uint128 half = reward.claimableReward / 2;
            reward.claimableReward -= half;
            reward.distributedReward += half;
            amount = half;
        }
        rewards[pricingIndex] = reward;

        if (reward.startTime != 0 && reward.startTime + releaseSeconds > block.timestamp) {
            uint256 base = baseReward < totalBaseReward ? baseReward : totalBaseReward;
            totalBaseReward -= base;
            amount += base;
        }
        if (amount > 0) {
            credit(beneficiary, amount);
            emit DistributeReward(pricingIndex, beneficiary, minerId, amount);
        }
    }

    /// What the release since startTime adds to claimable and distributed.
    function newlyReleased(Reward memory reward) private view returns (uint256) {
        if (reward.startTime == 0) return 0;
        uint256 released = uint256(reward.claimableReward) + reward.distributedReward;
        uint256 total = reward.lockedReward + released;
        uint256 elapsed = block.timestamp - reward.startTime;
        uint256 expected = elapsed < releaseSeconds ? total * elapsed / releaseSeconds : total;
        return expected > released ? expected - released : 0;
    }

    // Views -----------------------------------------------------------------------------------------------------------

    /// When the release of a chunk ends; zero if it has not begun.
    function rewardDeadline(uint256 pricingIndex) public view returns (uint256) {
        uint256 startTime = rewards[pricingIndex].startTime;
        return startTime == 0 ? 0 : startTime + releaseSeconds;
    }

    /// The first chunk whose deadline has not passed, and the time that holds for. Chunks fill in order, so those that
    /// have expired come first.
    function firstRewardableChunk() external view returns (uint64, uint256) {
        uint256 high = FIRST_SEARCH_BOUND;
        while (hasExpired(high)) high *= 2;
        uint256 low = 0;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (hasExpired(middle)) low = middle + 1;
            else high = middle;
        }
        return (uint64(low), block.timestamp);
    }

    function hasExpired(uint256 pricingIndex) private view returns (bool) {
        uint256 deadline = rewardDeadline(pricingIndex);
        return deadline != 0 && deadline <= block.timestamp;
    }
}
