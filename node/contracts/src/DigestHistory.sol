// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

/// The last `capacity` digests its owner inserted, in a ring; indices count every insert ever made.
contract DigestHistory is Ownable {
    error UnavailableIndex(uint256 index);

    uint256 public immutable capacity;
    uint256 public nextIndex;
    mapping(uint256 => bytes32) private slots;

    constructor(uint256 capacity_) Ownable(msg.sender) {
        capacity = capacity_;
    }

    function insert(bytes32 digest) external onlyOwner returns (uint256 index) {
        index = nextIndex;
        slots[index % capacity] = digest;
        nextIndex = index + 1;
    }

    function available(uint256 index) public view returns (bool) {
        return index < nextIndex && nextIndex - index <= capacity;
    }

    /// Whether the digest is among those still held; looks at each of them.
    function contains(bytes32 digest) external view returns (bool) {
        uint256 held = nextIndex < capacity ? nextIndex : capacity;
        for (uint256 i = 0; i < held; i++) {
            if (slots[i] == digest) return true;
        }
        return false;
    }

    function at(uint256 index) external view returns (bytes32) {
        if (!available(index)) revert UnavailableIndex(index);
        return slots[index % capacity];
    }
}
