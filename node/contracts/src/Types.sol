// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

// Sizes, the structures of the ABI, and what the contracts ask of each other.
// Positions and lengths are in sectors of 256 bytes unless a name says otherwise.

uint256 constant BYTES_PER_SECTOR = 256;
uint256 constant SECTORS_PER_SEAL = 16;
uint256 constant LG_SECTORS_PER_LOAD = 10;
uint256 constant SECTORS_PER_LOAD = 1 << LG_SECTORS_PER_LOAD;
uint256 constant SEALS_PER_LOAD = 64;
// One pricing chunk, 8 GiB.
uint256 constant SECTORS_PER_PRICING = 1 << 25;
// The longest range one shard may mine, 8 TiB.
uint256 constant SECTORS_PER_MAX_MINING_RANGE = 1 << 35;
// Blocks back that the EIP-2935 history reaches.
uint256 constant BLOCK_HISTORY = 8191;
// keccak256 of nothing: the digest of an epoch that came too late to know its block hash.
bytes32 constant EMPTY_HASH = 0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470;

bytes32 constant PAUSER_ROLE = keccak256("PAUSER_ROLE");
bytes32 constant PARAMS_ADMIN_ROLE = keccak256("PARAMS_ADMIN_ROLE");

/// Root of a full subtree of 2^height sectors.
struct SubmissionNode {
    bytes32 root;
    uint256 height;
}

/// A file: its length in bytes, bytes nobody reads, and its subtrees, largest first.
struct SubmissionData {
    uint256 length;
    bytes tags;
    SubmissionNode[] nodes;
}

struct Submission {
    SubmissionData data;
    address submitter;
}

/// What the miners of one epoch work on.
struct MineContext {
    uint256 epoch;
    uint256 mineStart;
    bytes32 flowRoot;
    uint256 flowLength;
    bytes32 blockDigest;
    bytes32 digest;
}

/// Sectors [start, end), first seen by one epoch.
struct EpochRange {
    uint128 start;
    uint128 end;
}

struct EpochRangeWithContextDigest {
    uint128 start;
    uint128 end;
    bytes32 digest;
}

interface IFlow {
    function makeContextWithResult() external returns (MineContext memory);
    function getEpochRange(bytes32 digest) external view returns (EpochRange memory);
    function blocksPerEpoch() external view returns (uint256);
}

interface IMarket {
    function pricePerSector() external view returns (uint256);
    function chargeFee(uint256 beforeLength, uint256 uploadSectors, uint256 paddingSectors) external;
}

interface IReward {
    function fillReward(uint256 beforeLength, uint256 chargedSectors) external payable;
    function claimMineReward(uint256 pricingIndex, address payable beneficiary, bytes32 minerId) external;
}
