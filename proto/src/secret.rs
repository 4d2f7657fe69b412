//! Places of secrets.

use levelflow_common::SecretPart;

use crate::v1;

impl From<&SecretPart> for v1::SecretPart {
    fn from(place: &SecretPart) -> Self {
        Self {
            pointer: place.pointer.clone(),
            part: place.part,
            name: place.name.clone(),
        }
    }
}
