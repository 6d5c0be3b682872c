//! What an operation may be at most. Each refusal names its limit.

use serde_json::Value;

use crate::config::Limits;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::{Fields, Op};

/// Bytes of a field's name, and of a group's.
const NAME_BYTES: usize = 128;

/// Checks an operation's values.
///
/// # Errors
/// `limit_exceeded` with the limit, or `bad_request` for a name no field can have.
pub fn check(op: &Op, limits: &Limits) -> Result<(), Refusal> {
    if op.group.as_ref().is_some_and(|group| group.is_empty() || group.len() > NAME_BYTES) {
        return Err(Refusal::new(ErrorCode::BadRequest, "`group` must have 1 to 128 bytes"));
    }
    if op.notify.as_ref().is_some_and(|notify| notify.users.len() > limits.notify_users) {
        return Err(Refusal::limit("notify_users", limits.notify_users as u64));
    }
    fields(&op.fields, limits)?;
    fields(&op.was, limits)
}

/// Checks the fields of an operation or event.
///
/// # Errors
/// As [`check`].
pub fn fields(fields: &Fields, limits: &Limits) -> Result<(), Refusal> {
    if fields.len() > limits.op_fields {
        return Err(Refusal::limit("op_fields", limits.op_fields as u64));
    }
    if fields.keys().any(|name| name.is_empty() || name.len() > NAME_BYTES) {
        let message = "a field's name must have 1 to 128 bytes";
        return Err(Refusal::new(ErrorCode::BadRequest, message));
    }
    fields.values().try_for_each(|field| value(field, 1, limits))
}

/// Values nest no deeper than their reader lets them, so this ends.
fn value(of: &Value, depth: usize, limits: &Limits) -> Result<(), Refusal> {
    match of {
        Value::String(text) if text.len() > limits.op_string_bytes => {
            Err(Refusal::limit("op_string_bytes", limits.op_string_bytes as u64))
        }
        Value::Array(_) | Value::Object(_) if depth > limits.op_depth => {
            Err(Refusal::limit("op_depth", limits.op_depth as u64))
        }
        Value::Array(items) => items.iter().try_for_each(|item| value(item, depth + 1, limits)),
        Value::Object(members) => {
            members.values().try_for_each(|member| value(member, depth + 1, limits))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(values: &Value) -> Result<(), String> {
        let limits = Limits { op_fields: 2, op_string_bytes: 4, op_depth: 2, ..Limits::default() };
        let values: Fields = serde_json::from_value(values.clone()).unwrap();
        fields(&values, &limits).map_err(|refusal| refusal.message)
    }

    #[test]
    fn each_limit_is_named() {
        assert_eq!(verdict(&json!({"a": [[1]], "b": {"c": "four"}})), Ok(()));
        for (values, limit) in [
            (json!({"a": 1, "b": 2, "c": 3}), "op_fields"),
            (json!({"a": "fives"}), "op_string_bytes"),
            (json!({"a": [{"b": "fives"}]}), "op_string_bytes"),
            (json!({"a": [[[1]]]}), "op_depth"),
            (json!({"a": {"b": [{}]}}), "op_depth"),
        ] {
            assert!(verdict(&values).unwrap_err().contains(limit), "{values}");
        }
        assert!(verdict(&json!({"": 1})).unwrap_err().contains("name"));
        assert!(verdict(&json!({"x".repeat(129): 1})).unwrap_err().contains("name"));
    }
}
