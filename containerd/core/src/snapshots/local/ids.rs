//! Ids of files that are mapped to others, by labels of a snapshot.

use shim_protocol::{Error, Result};

use crate::snapshots::{GID_MAPPING_LABEL, Labels, UID_MAPPING_LABEL};

/// The owner that the root folder of a snapshot gets by its labels: whom the
/// container's root is mapped to. None without a mapping.
///
/// # Errors
/// `InvalidArgument` when only one of the labels is there, one cannot be read,
/// or does not map 0.
pub(super) fn mapped_root(labels: &Labels) -> Result<Option<(u32, u32)>> {
    let (uids, gids) = (labels.get(UID_MAPPING_LABEL), labels.get(GID_MAPPING_LABEL));
    match (uids, gids) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => Ok(Some((root_of(uids)?, root_of(gids)?))),
        _ => Err(Error::invalid("ids of users and of groups are mapped together or not at all")),
    }
}

/// The id on the host that a mapping has for 0.
fn root_of(mapping: &str) -> Result<u32> {
    let mut root = None;
    for part in mapping.split(',') {
        let (container, host) = parse(part)
            .ok_or_else(|| Error::invalid(format!("{part:?} is no mapping container:host:size")))?;
        if container == 0 {
            root = Some(host);
        }
    }
    root.ok_or_else(|| Error::invalid(format!("mapping {mapping:?} lacks the id 0")))
}

/// First ids in the container and on the host of a part that is not empty.
fn parse(part: &str) -> Option<(u32, u32)> {
    let mut numbers = part.split(':').map(|number| number.parse::<u32>().ok());
    let (container, host, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (size > 0 && numbers.next().is_none()).then_some((container, host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::labels;

    #[test]
    fn the_root_of_a_mapping() {
        let found =
            labels(&[(UID_MAPPING_LABEL, "1:5:9,0:1000:1"), (GID_MAPPING_LABEL, "0:2000:65536")]);
        assert_eq!(mapped_root(&found).unwrap(), Some((1000, 2000)));
        assert_eq!(mapped_root(&Labels::new()).unwrap(), None);
        for bad in ["", "0", "0:1", "0:1:0", "0:1:2:3", "1:2:3", "a:b:c", "0:-1:2"] {
            let found = labels(&[(UID_MAPPING_LABEL, bad), (GID_MAPPING_LABEL, "0:0:1")]);
            mapped_root(&found).unwrap_err();
        }
        mapped_root(&labels(&[(UID_MAPPING_LABEL, "0:0:1")])).unwrap_err();
    }
}
