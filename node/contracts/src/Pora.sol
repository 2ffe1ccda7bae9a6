// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import "./Types.sol";

/// The sectors an answer mines, and which of their loads: those whose index agrees with shardId in the bits where
/// shardMask is zero.
struct MineRange {
    uint256 startPosition;
    uint256 mineLength;
    uint64 shardId;
    uint64 shardMask;
}

struct PoraAnswer {
    bytes32 contextDigest;
    bytes32 nonce;
    bytes32 minerId;
    MineRange range;
    uint256 recallPosition;
    /// Seal within the recalled load, 0 to 63.
    uint256 sealOffset;
    /// Digest of the epoch that the seal's last sector belongs to.
    bytes32 sealedContextDigest;
    bytes32[128] sealedData;
    /// Siblings from the root of the seal's 16 sectors up to the flow root, which is left out.
    bytes32[] merkleProof;
}

library MineRanges {
    uint256 private constant ALL_BITS = type(uint64).max;

    /// Two to the number of zero bits of the mask.
    function numShards(MineRange calldata range) internal pure returns (uint256 count) {
        count = 1;
        for (uint256 zeros = range.shardMask ^ ALL_BITS; zeros != 0; zeros &= zeros - 1) count <<= 1;
    }

    /// A range starts at a pricing chunk, ends within the whole loads of the flow, and is as long as it can be up to
    /// 8 TiB per shard.
    function check(MineRange calldata range, uint256 flowLength) internal pure {
        uint256 maxEnd = flowLength / SECTORS_PER_LOAD * SECTORS_PER_LOAD;
        uint256 maxLength = SECTORS_PER_MAX_MINING_RANGE * numShards(range);
        require(range.startPosition % SECTORS_PER_PRICING == 0, "Start position is not aligned");
        require(range.startPosition + range.mineLength <= maxEnd, "Mining range overflow");
        require(range.mineLength <= maxLength, "Mining range too long");
        require(range.mineLength >= (maxEnd < maxLength ? maxEnd : maxLength), "Mining range too short");
        require(range.shardId & range.shardMask == 0, "Masked bits should be zero");
    }

    function digest(MineRange calldata range) internal pure returns (bytes32) {
        return keccak256(abi.encode(range.startPosition, range.mineLength, range.shardId, range.shardMask));
    }

    /// The largest hash that answers for this range: the smaller the share of the flow a shard covers, the harder.
    function target(MineRange calldata range, uint256 poraTarget, uint256 flowLength) internal pure returns (uint256) {
        uint256 whole = min(flowLength, SECTORS_PER_MAX_MINING_RANGE);
        uint256 shard = min(flowLength / numShards(range), SECTORS_PER_MAX_MINING_RANGE);
        uint256 scaleX64 = (whole << 64) / shard;
        // scaleX64 >= 2^64, so the product fits.
        return poraTarget / scaleX64 << 64;
    }

    function min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}

/// Seals: 4 KiB of data, each 32-byte word masked with the hash of the sealed word before it.
library Seal {
    /// The data of a seal. startSector is the seal's first sector in the flow.
    function unseal(bytes32[128] calldata sealedData, bytes32 minerId, bytes32 contextDigest, uint256 startSector)
        internal
        pure
        returns (bytes32[128] memory data)
    {
        require(contextDigest != bytes32(0), "Seal digest cannot be empty");
        bytes32 mask = keccak256(abi.encode(minerId, contextDigest, startSector));
        // Reads the 128 words of sealedData, writes the 128 words of data, and word 0 of the scratch space.
        assembly ("memory-safe") {
            let source := sealedData
            let end := add(data, 4096)
            for { let word := data } lt(word, end) { word := add(word, 32) } {
                let sealedWord := calldataload(source)
                mstore(word, xor(sealedWord, mask))
                mstore(0x00, sealedWord)
                mask := keccak256(0x00, 0x20)
                source := add(source, 32)
            }
        }
    }

    /// Root of the 16 sectors of a seal. It overwrites `data` with the tree.
    function root(bytes32[128] memory data) internal pure returns (bytes32 hash) {
        // A level is written over the level below: node i goes to word i, whose bytes have been hashed by then.
        assembly ("memory-safe") {
            for { let i := 0 } lt(i, 16) { i := add(i, 1) } {
                mstore(add(data, shl(5, i)), keccak256(add(data, shl(8, i)), 256))
            }
            for { let nodes := 8 } nodes { nodes := shr(1, nodes) } {
                for { let i := 0 } lt(i, nodes) { i := add(i, 1) } {
                    mstore(add(data, shl(5, i)), keccak256(add(data, shl(6, i)), 64))
                }
            }
            hash := mload(data)
        }
    }

    /// Root above the seal of that index, by its siblings from the bottom up.
    function climb(bytes32 hash, uint256 sealIndex, bytes32[] calldata siblings) internal pure returns (bytes32) {
        for (uint256 i = 0; i < siblings.length; i++) {
            bytes32 sibling = siblings[i];
            bool isRight = (sealIndex >> i) & 1 == 1;
            // Scratch space only.
            assembly ("memory-safe") {
                mstore(shl(5, isRight), hash)
                mstore(shl(5, iszero(isRight)), sibling)
                hash := keccak256(0x00, 0x40)
            }
        }
        return hash;
    }
}

/// Proof of random access: from a nonce to the place it reads, and the hash of what lies there.
library Pora {
    /// State of BLAKE2b-512 without a key, before the first block, as bytes: little-endian words.
    bytes32 private constant BLAKE2B_STATE_LOW = 0x48c9bdf267e6096a3ba7ca8485ae67bb2bf894fe72f36e3cf1361d5f3af54fa5;
    bytes32 private constant BLAKE2B_STATE_HIGH = 0xd182e6ad7f520e511f6c3e2b8c68059b6bbd41fbabd9831f79217e1319cde05b;

    /// Checks that the answer's place is the one its nonce reads, and returns its hash: the first 32 bytes of
    /// BLAKE2b-512(u256(sealOffset) ‖ padSeed ‖ 32 zero bytes ‖ sealedData XOR pad[4096·(sealOffset mod 4) …]).
    function hash(PoraAnswer calldata answer, bytes32 subtaskDigest) internal view returns (bytes32) {
        require(answer.minerId != bytes32(0), "Miner ID cannot be empty");
        bytes32 rangeDigest = MineRanges.digest(answer.range);
        (bytes32 poraHash, bytes32 recallSeed) = mix(answer, subtaskDigest, rangeDigest);
        checkRecall(answer, recallSeed);
        return poraHash;
    }

    /// The place a recall seed leads to. An offset of 64 or more would leave the recalled load.
    function checkRecall(PoraAnswer calldata answer, bytes32 recallSeed) private pure {
        MineRange calldata range = answer.range;
        uint256 load = uint256(recallSeed) % (range.mineLength / SECTORS_PER_LOAD);
        load = (uint64(load) & range.shardMask) | range.shardId;
        require(load * SECTORS_PER_LOAD <= range.mineLength, "Recall position out of bound");
        uint256 position = range.startPosition + load * SECTORS_PER_LOAD + answer.sealOffset * SECTORS_PER_SEAL;
        require(
            answer.sealOffset < SEALS_PER_LOAD && answer.recallPosition == position, "Incorrect recall position"
        );
    }

    /// The pad is a chain of 256 cells of 64 bytes. Cell by cell it is made and, in the quarter that belongs to the
    /// seal, mixed with sealed data right in the input of the BLAKE2b precompile, so no pad is ever held in memory.
    ///
    /// Precompile input, 213 bytes at `frame`: rounds 4 | state 64 | block 128 | bytes so far 16 | last 1. Its output,
    /// the next state, goes to the place of the state.
    function mix(PoraAnswer calldata answer, bytes32 subtaskDigest, bytes32 rangeDigest)
        private
        view
        returns (bytes32 poraHash, bytes32 recallSeed)
    {
        bytes32[128] calldata sealedData = answer.sealedData;
        bytes32 minerId = answer.minerId;
        bytes32 nonce = answer.nonce;
        uint256 sealOffset = answer.sealOffset;
        bool ok;

        // Writes the scratch space and 256 bytes at the free memory pointer, which stays where it is.
        assembly ("memory-safe") {
            // One compression of the block in the frame, after `length` bytes of input (below 2^16), `last` 0 or 1.
            function compress(frame, length, last) -> done {
                // Length as 16 little-endian bytes, then the flag; what follows lies behind the input.
                let low := shl(248, and(length, 0xff))
                let high := shl(240, shr(8, length))
                mstore(add(frame, 196), or(or(low, high), shl(120, last)))
                done := staticcall(gas(), 0x09, frame, 213, add(frame, 4), 64)
            }
            // Steps the cell in scratch space 64 times: a quarter of the pad.
            function skipQuarter() {
                for { let i := 0 } lt(i, 8) { i := add(i, 1) } {
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                    mstore(0x00, keccak256(0x00, 0x40)) mstore(0x20, keccak256(0x00, 0x40))
                }
            }
            // Steps the cell and writes it, XORed with 64 bytes of sealed data, into the block.
            function mixCell(target, source) {
                let first := keccak256(0x00, 0x40)
                mstore(0x00, first)
                let second := keccak256(0x00, 0x40)
                mstore(0x20, second)
                mstore(target, xor(first, calldataload(source)))
                mstore(add(target, 32), xor(second, calldataload(add(source, 32))))
            }

            let frame := mload(0x40)
            let block0 := add(frame, 68)
            mstore(frame, shl(224, 12))

            // The seed of the pad, BLAKE2b of one block, becomes the first cell.
            mstore(add(frame, 4), BLAKE2B_STATE_LOW)
            mstore(add(frame, 36), BLAKE2B_STATE_HIGH)
            mstore(block0, minerId)
            mstore(add(block0, 32), nonce)
            mstore(add(block0, 64), subtaskDigest)
            mstore(add(block0, 96), rangeDigest)
            ok := compress(frame, 128, 1)
            mstore(0x00, mload(add(frame, 4)))
            mstore(0x20, mload(add(frame, 36)))

            // Head of the answer's hash.
            mstore(add(frame, 4), BLAKE2B_STATE_LOW)
            mstore(add(frame, 36), BLAKE2B_STATE_HIGH)
            mstore(block0, sealOffset)
            mstore(add(block0, 32), mload(0x00))
            mstore(add(block0, 64), mload(0x20))
            mstore(add(block0, 96), 0)
            ok := and(ok, compress(frame, 128, 0))

            let quarter := and(sealOffset, 3)
            for { let i := 0 } lt(i, quarter) { i := add(i, 1) } { skipQuarter() }
            // 32 blocks of two cells each; the last ends at 128 + 4096 bytes.
            for { let length := 256 } lt(length, 4225) { length := add(length, 128) } {
                let source := add(sealedData, sub(length, 256))
                mixCell(block0, source)
                mixCell(add(block0, 64), add(source, 64))
                ok := and(ok, compress(frame, length, eq(length, 4224)))
            }
            for { let i := quarter } lt(i, 3) { i := add(i, 1) } { skipQuarter() }

            poraHash := mload(add(frame, 4))
            recallSeed := keccak256(0x00, 0x40)
        }
        require(ok, "blake2b internal error at PoRA hash");
    }
}
