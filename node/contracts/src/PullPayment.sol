// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";

/// Keeps what its owner credits to payees until it is withdrawn.
contract Escrow is Ownable(msg.sender) {
    event Deposited(address indexed payee, uint256 weiAmount);
    event Withdrawn(address indexed payee, uint256 weiAmount);

    mapping(address payee => uint256) public depositsOf;

    function deposit(address payee) external payable onlyOwner {
        depositsOf[payee] += msg.value;
        emit Deposited(payee, msg.value);
    }

    function withdraw(address payable payee) external onlyOwner {
        uint256 amount = depositsOf[payee];
        depositsOf[payee] = 0;
        emit Withdrawn(payee, amount);
        Address.sendValue(payee, amount);
    }
}

/// Pays by credit: the payee is never called while a payment is made, so it can neither block nor re-enter it.
abstract contract PullPayment {
    Escrow private immutable ESCROW = new Escrow();

    /// Wei owed to a payee.
    function payments(address payee) external view returns (uint256) {
        return ESCROW.depositsOf(payee);
    }

    /// Sends a payee all it is owed. Anyone may call it, for anyone.
    function withdrawPayments(address payable payee) external {
        ESCROW.withdraw(payee);
    }

    function credit(address payee, uint256 amount) internal {
        ESCROW.deposit{value: amount}(payee);
    }
}
