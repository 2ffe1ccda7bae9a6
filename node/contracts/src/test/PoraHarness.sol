// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {ZeroLadder} from "../FlowTree.sol";
import {MineRange, MineRanges, Pora, PoraAnswer, Seal} from "../Pora.sol";

/// Opens the libraries that PoraMine is made of to tests, one call for each.
contract PoraHarness {
    function unseal(bytes32[128] calldata sealedData, bytes32 minerId, bytes32 contextDigest, uint256 startSector)
        external
        pure
        returns (bytes32[128] memory)
    {
        return Seal.unseal(sealedData, minerId, contextDigest, startSector);
    }

    function sealRoot(bytes32[128] calldata data) external pure returns (bytes32) {
        return Seal.root(data);
    }

    function climb(bytes32 hash, uint256 sealIndex, bytes32[] calldata siblings) external pure returns (bytes32) {
        return Seal.climb(hash, sealIndex, siblings);
    }

    /// The hash of an answer. Reverts unless recallPosition is where the nonce leads.
    function pora(PoraAnswer calldata answer, bytes32 subtaskDigest) external view returns (bytes32) {
        return Pora.hash(answer, subtaskDigest);
    }

    function rangeDigest(MineRange calldata range) external pure returns (bytes32) {
        return MineRanges.digest(range);
    }

    function checkRange(MineRange calldata range, uint256 flowLength) external pure {
        MineRanges.check(range, flowLength);
    }

    function target(MineRange calldata range, uint256 poraTarget, uint256 flowLength) external pure returns (uint256) {
        return MineRanges.target(range, poraTarget, flowLength);
    }

    function zeros(uint256 height) external pure returns (bytes32) {
        return ZeroLadder.zeros(height);
    }
}
