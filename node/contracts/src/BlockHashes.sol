// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

/// Block hashes beyond the 256 blocks that the opcode knows.
library BlockHashes {
    /// The history contract of EIP-2935.
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;

    /// Hash of a past block, up to 8191 blocks back; zero when it is out of reach or the chain has no history contract.
    function hashOf(uint256 number) internal view returns (bytes32 hash) {
        if (number + 256 >= block.number) return blockhash(number);
        (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(number));
        if (ok && answer.length == 32) hash = abi.decode(answer, (bytes32));
    }
}
