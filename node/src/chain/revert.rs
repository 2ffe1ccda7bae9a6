//! Why a contract refused, in words.

use std::fmt;

use alloy::{
    primitives::{Bytes, U256},
    sol,
    sol_types::{Panic, Revert as RevertString, SolError, SolInterface},
};

sol! {
    #[allow(missing_docs)]
    interface KnownErrors {
        error NotEnoughFee(uint256 price, uint256 sectors, uint256 paid);
        error EnforcedPause();
        error ExpectedPause();
        error UnavailableIndex(uint256 index);
        error AccessControlUnauthorizedAccount(address account, bytes32 role);
        error InvalidInitialization();
        error NotInitializing();
        error AddressInsufficientBalance(address account);
        error FailedInnerCall();
        error FailedCall();
        error InsufficientBalance(uint256 balance, uint256 needed);
        error ReentrancyGuardReentrantCall();
    }
}

/// A contract's refusal: the text of its revert string, or its custom error in words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revert {
    text: String,
}

/// Longest text that is kept of a refusal, in bytes: it comes from outside and goes to logs.
const MAX_TEXT: usize = 300;

impl Revert {
    /// Reads what an EVM returned when it reverted; `message` is what the endpoint said about it.
    pub fn decode(data: &Bytes, message: &str) -> Self {
        Revert::from_text(&match decode_data(data) {
            Some(text) => text,
            None if data.len() >= 4 => format!("custom error 0x{}", alloy::hex::encode(&data[..4])),
            None => {
                let message = message.trim().trim_start_matches("execution reverted").trim_start_matches([':', ' ']);
                if message.is_empty() { "no reason given".to_owned() } else { message.to_owned() }
            }
        })
    }

    /// A refusal with this text.
    pub fn from_text(text: &str) -> Self {
        Revert { text: clip(text, MAX_TEXT) }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The beginning of a text of unknown origin, on one line.
pub(crate) fn clip(text: &str, max: usize) -> String {
    let mut clipped: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clipped.len() > max {
        let end = (0..=max).rev().find(|end| clipped.is_char_boundary(*end)).unwrap_or(0);
        clipped.truncate(end);
        clipped.push('…');
    }
    clipped
}

fn decode_data(data: &[u8]) -> Option<String> {
    if let Ok(RevertString { reason }) = RevertString::abi_decode(data) {
        return Some(reason);
    }
    if let Ok(panic) = Panic::abi_decode(data) {
        return Some(panic.to_string());
    }
    use KnownErrors::KnownErrorsErrors as Known;
    Some(match Known::abi_decode(data).ok()? {
        Known::NotEnoughFee(error) => not_enough_fee(error.price, error.sectors, error.paid),
        Known::EnforcedPause(_) => "the contract is paused".to_owned(),
        Known::ExpectedPause(_) => "the contract is not paused".to_owned(),
        Known::UnavailableIndex(error) => format!("entry {} of the history is not available", error.index),
        Known::AccessControlUnauthorizedAccount(error) => {
            format!("account {} does not have role {}", error.account, error.role)
        }
        Known::InvalidInitialization(_) => "the contract is initialized already".to_owned(),
        Known::NotInitializing(_) => "the contract is not initializing".to_owned(),
        Known::AddressInsufficientBalance(error) => format!("account {} has too small a balance", error.account),
        Known::FailedInnerCall(_) | Known::FailedCall(_) => "a call inside the contract failed".to_owned(),
        Known::InsufficientBalance(error) => {
            format!("the contract has {} wei and needs {}", error.balance, error.needed)
        }
        Known::ReentrancyGuardReentrantCall(_) => "the contract was entered twice".to_owned(),
    })
}

fn not_enough_fee(price: U256, sectors: U256, paid: U256) -> String {
    format!("the fee is too small: {sectors} sectors at {price} wei each, {paid} wei paid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_panics_and_custom_errors_become_words() {
        let string = RevertString::from("Do not reach target quality").abi_encode();
        assert_eq!(Revert::decode(&string.into(), "execution reverted").text(), "Do not reach target quality");
        let fee = KnownErrors::NotEnoughFee { price: U256::from(3), sectors: U256::from(4), paid: U256::from(5) };
        assert_eq!(
            Revert::decode(&fee.abi_encode().into(), "").text(),
            "the fee is too small: 4 sectors at 3 wei each, 5 wei paid"
        );
        // Panic(uint256) with code 0x11, as the compiler emits it on an overflow.
        let overflow: Bytes = Panic { code: U256::from(0x11) }.abi_encode().into();
        assert!(Revert::decode(&overflow, "").text().contains("flow"), "{}", Revert::decode(&overflow, ""));
        let unknown = Bytes::from_static(&[0xde, 0xad, 0xbe, 0xef, 0, 0]);
        assert_eq!(Revert::decode(&unknown, "").text(), "custom error 0xdeadbeef");
        assert_eq!(Revert::decode(&Bytes::new(), "execution reverted: late").text(), "late");
        assert_eq!(Revert::decode(&Bytes::new(), "execution reverted").text(), "no reason given");
    }

    #[test]
    fn hostile_texts_are_cut() {
        let text = "é\n".repeat(1000);
        let revert = Revert::from_text(&text);
        assert!(revert.text().len() <= MAX_TEXT + '…'.len_utf8() && !revert.text().contains('\n'));
    }
}
