//! What the API server answers, as errors of a store.

use kube::core::Status;
use stoke_api::ObjectRef;
use stoke_host::store::StoreError;

use crate::object::Unreadable;

/// Why a request about an object failed.
pub(super) fn refused(error: kube::Error, object: &ObjectRef) -> StoreError {
    let kube::Error::Api(status) = &error else { return StoreError::Unreachable(Box::new(error)) };
    match status.code {
        409 => StoreError::Conflict(object.clone()),
        404 if is_about(status, object.name.as_str()) => StoreError::NotFound(object.clone()),
        429 | 500..=599 => StoreError::Unreachable(Box::new(error)),
        _ => StoreError::Refused { object: object.clone(), message: status.message.clone() },
    }
}

/// Why a request about an unreadable object failed; `None` if it is another one by now.
pub(super) fn refused_unnamed(error: kube::Error, object: &Unreadable) -> Option<StoreError> {
    match &error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => None,
        kube::Error::Api(status) if status.code < 500 => {
            tracing::warn!("cannot say that {object} is unreadable: {}", status.message);
            None
        }
        _ => Some(StoreError::Unreachable(Box::new(error))),
    }
}

/// Whether it is the object that is not there, and not its namespace or its kind.
fn is_about(status: &Status, name: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == name && details.kind != "namespaces")
}
