// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {AccessControlEnumerable} from "@openzeppelin/contracts/access/extensions/AccessControlEnumerable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import "./Types.sol";

/// Takes the fee of each submission at one price per sector and hands it to the reward contract.
contract FixedPriceMarket is AccessControlEnumerable, Initializable {
    /// Wei per sector of padded size.
    uint256 public pricePerSector;
    address public flow;
    address public reward;

    function initialize(uint256 pricePerSector_, address flow_, address reward_) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, msg.sender);
        _grantRole(PARAMS_ADMIN_ROLE, msg.sender);
        pricePerSector = pricePerSector_;
        flow = flow_;
        reward = reward_;
    }

    function setPricePerSector(uint256 pricePerSector_) external onlyRole(PARAMS_ADMIN_ROLE) {
        pricePerSector = pricePerSector_;
    }

    /// Fees come in from the flow. What anyone else sends is a bonus to the next upload.
    receive() external payable {}

    /// Spreads the fee over the alignment padding before a file and the file itself, by sectors. beforeLength is the
    /// length of the flow before the padding.
    function chargeFee(uint256 beforeLength, uint256 uploadSectors, uint256 paddingSectors) external {
        require(msg.sender == flow, "Sender does not have permission");
        uint256 balance = address(this).balance;
        uint256 baseFee = pricePerSector * uploadSectors;
        require(baseFee <= balance, "Not enough paid fee");

        uint256 paddingPart = baseFee * paddingSectors / (uploadSectors + paddingSectors);
        if (paddingSectors > 0) {
            IReward(reward).fillReward{value: paddingPart}(beforeLength, paddingSectors);
        }
        // All that is left: the bonus and the part of the upload.
        IReward(reward).fillReward{value: balance - paddingPart}(beforeLength + paddingSectors, uploadSectors);
    }
}
