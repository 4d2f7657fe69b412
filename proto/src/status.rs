//! The one mapping between error codes and the status of gRPC and HTTP.
//!
//! Both follow from whose fault a code is ([`Code::fault`]), but for codes that have a status of their own.
//! The details of a gRPC status are those of `google.rpc`, so that clients in any language can read them: `ErrorInfo`
//! with the code as its reason, `BadRequest` with the violations, `RetryInfo` with the wait.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

use http::StatusCode;
use levelflow_common::{Code, Fault};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::{ApiError, FieldViolation};

/// The domain of the reasons in `ErrorInfo`.
pub const DOMAIN: &str = "levelflow";

/// Bytes of violations in one status. Details travel in a header, and peers refuse headers that are
/// longer than a few KiB.
const MAX_VIOLATION_BYTES: usize = 3 * 1024;
/// Bytes of the message of one status, which travels both as a header and in the details.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The status that stands for an error.
pub fn to_status(
    code: Code,
    message: impl Into<String>,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
) -> Status {
    let mut message = message.into();
    cut(&mut message, MAX_MESSAGE_BYTES);
    let mut details = ErrorDetails::new();
    let mut positions = HashMap::new();
    let total = violations.len();
    let mut bytes = 0;
    for (index, mut violation) in violations.into_iter().enumerate() {
        cut(&mut violation.description, MAX_MESSAGE_BYTES);
        bytes += violation.field.len() + violation.description.len();
        if bytes > MAX_VIOLATION_BYTES {
            details.add_bad_request_violation("", format!("and {} more", total - index));
            break;
        }
        if let Some((line, column)) = violation.position {
            positions.insert(position_key(index), format!("{line}:{column}"));
        }
        details.add_bad_request_violation(violation.field, violation.description);
    }
    details.set_error_info(code.as_str(), DOMAIN, positions);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(grpc_code(code), message, details)
}

/// The error that a status stands for. Of statuses that no part of Levelflow made, such as that of a
/// broken connection, only the plain meaning is known.
pub fn from_status(status: &Status) -> ApiError {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    let code = match info {
        Some(info) => Code::parse(&info.reason),
        None => plain_code(status),
    };
    let violations = details
        .bad_request()
        .map(|request| request.field_violations.as_slice())
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, violation)| FieldViolation {
            field: violation.field.clone(),
            description: violation.description.clone(),
            position: info
                .and_then(|info| info.metadata.get(&position_key(index)))
                .and_then(|text| parse_position(text)),
        })
        .collect();
    ApiError {
        code,
        message: status.message().to_owned(),
        violations,
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        to_status(
            error.code(),
            error.message,
            error.violations,
            error.retry_after,
        )
    }
}

/// The HTTP status that stands for an error.
pub fn http_status(code: Code) -> StatusCode {
    match (code, code.fault()) {
        (Code::WorkflowInvalid | Code::InputInvalid, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (Code::TooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::MethodNotAllowed, _) => StatusCode::METHOD_NOT_ALLOWED,
        (Code::MediaTypeUnsupported, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (Code::OriginRefused, _) => StatusCode::FORBIDDEN,
        (Code::RequestTimeout, _) => StatusCode::REQUEST_TIMEOUT,
        (_, Fault::Caller) => StatusCode::BAD_REQUEST,
        (_, Fault::NotFound) => StatusCode::NOT_FOUND,
        (_, Fault::Conflict | Fault::Task) => StatusCode::CONFLICT,
        (_, Fault::Exhausted) => StatusCode::TOO_MANY_REQUESTS,
        (_, Fault::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        (_, Fault::Internal) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn grpc_code(code: Code) -> tonic::Code {
    match (code, code.fault()) {
        (Code::KeyReused | Code::WorkerIdTaken, _) => tonic::Code::AlreadyExists,
        (_, Fault::Caller) => tonic::Code::InvalidArgument,
        (_, Fault::NotFound) => tonic::Code::NotFound,
        (_, Fault::Conflict) => tonic::Code::FailedPrecondition,
        (_, Fault::Exhausted) => tonic::Code::ResourceExhausted,
        (_, Fault::Unavailable) => tonic::Code::Unavailable,
        (_, Fault::Internal) => tonic::Code::Internal,
        (_, Fault::Task) => tonic::Code::Aborted,
    }
}

/// What a status without our details means: those that tonic itself makes.
fn plain_code(status: &Status) -> Option<Code> {
    match status.code() {
        // A status with a cause was made on this side: the exchange broke off.
        tonic::Code::Unknown | tonic::Code::Internal | tonic::Code::Cancelled => {
            status.source().map(|_| Code::ServerUnreachable)
        }
        tonic::Code::Unavailable => Some(Code::ServerUnreachable),
        tonic::Code::OutOfRange => Some(Code::TooLarge),
        tonic::Code::InvalidArgument => Some(Code::RequestInvalid),
        tonic::Code::Unimplemented => Some(Code::ProtocolUnsupported),
        _ => None,
    }
}

fn position_key(index: usize) -> String {
    format!("position.{index}")
}

fn parse_position(text: &str) -> Option<(u32, u32)> {
    let (line, column) = text.split_once(':')?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_maps_back() {
        for &code in Code::ALL {
            let status = to_status(code, "no", Vec::new(), None);
            assert_ne!(status.code(), tonic::Code::Ok);
            assert_ne!(status.code(), tonic::Code::Unknown, "{code}");
            assert_eq!(from_status(&status), ApiError::new(code, "no"));
        }
    }

    #[test]
    fn details_map_back() {
        let error = ApiError {
            code: Some(Code::WorkflowInvalid),
            message: "2 problems".to_owned(),
            violations: vec![
                FieldViolation::new("name", "is missing"),
                FieldViolation {
                    position: Some((12, 5)),
                    ..FieldViolation::new("tasks[1].needs", "names itself")
                },
            ],
            retry_after: Some(Duration::from_millis(250)),
        };
        let status = Status::from(error.clone());
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(from_status(&status), error);
    }

    #[test]
    fn a_broken_exchange_is_an_unreachable_server() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = Status::from_error(Box::new(reset));
        assert_eq!(from_status(&broken).code, Some(Code::ServerUnreachable));
        // The peer said so itself.
        assert_eq!(from_status(&Status::unknown("no")).code, None);
    }

    #[test]
    fn the_fault_decides_the_status() {
        for (code, expected) in [
            (Code::TooLarge, tonic::Code::InvalidArgument),
            (Code::RunNotFound, tonic::Code::NotFound),
            (Code::RunEnded, tonic::Code::FailedPrecondition),
            (Code::KeyReused, tonic::Code::AlreadyExists),
            (Code::WorkerIdTaken, tonic::Code::AlreadyExists),
            (Code::QueueFull, tonic::Code::ResourceExhausted),
            (Code::ShuttingDown, tonic::Code::Unavailable),
            (Code::StoreCorrupt, tonic::Code::Internal),
            (Code::RunTimeout, tonic::Code::Aborted),
        ] {
            assert_eq!(to_status(code, "", Vec::new(), None).code(), expected);
        }
    }

    #[test]
    fn the_fault_decides_the_http_status() {
        for (code, expected) in [
            (Code::RequestInvalid, 400),
            (Code::WorkflowInvalid, 422),
            (Code::TooLarge, 413),
            (Code::RunNotFound, 404),
            (Code::RunEnded, 409),
            (Code::KeyReused, 409),
            (Code::QueueFull, 429),
            (Code::ShuttingDown, 503),
            (Code::RequestTimeout, 408),
            (Code::StoreCorrupt, 500),
        ] {
            assert_eq!(http_status(code).as_u16(), expected, "{code}");
        }
        for &code in Code::ALL {
            assert!(http_status(code).as_u16() >= 400, "{code}");
        }
    }

    #[test]
    fn many_long_violations_fit_into_a_header() {
        let violations = (0..1000)
            .map(|n| FieldViolation {
                position: Some((n, 1)),
                ..FieldViolation::new(format!("tasks[{n}].needs[0]"), "é".repeat(100))
            })
            .collect();
        let status = to_status(Code::WorkflowInvalid, "x".repeat(100_000), violations, None);
        assert!(
            status.details().len() < 6 * 1024,
            "{}",
            status.details().len()
        );
        let error = from_status(&status);
        let last = error.violations.last().expect("some violations are sent");
        let left_out = 1001 - error.violations.len();
        assert_eq!(last.description, format!("and {left_out} more"));
        assert_eq!(error.violations[3].position, Some((3, 1)));
    }

    #[test]
    fn a_status_of_the_transport_has_its_plain_meaning() {
        let error = from_status(&Status::unavailable("tcp connect error"));
        assert_eq!(error.code, Some(Code::ServerUnreachable));
        assert_eq!(error.message, "tcp connect error");
        assert_eq!(from_status(&Status::unknown("?")).code, None);
    }
}
