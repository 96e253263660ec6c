//! Images in the database.

use std::time::SystemTime;

use shim_protocol::{Error, Id, Result};

use super::{Image, record::Record, update};
use crate::{
    announce::{Announcer, ObjectEvent},
    content::Digest,
    filter::Filter,
    gc::EXPIRE_LABEL,
    labels,
    leases::{self, Resource},
    metadata::{Change, Db, Key, Read, last_part, last_parts, schema::IMAGES},
    namespaces,
};

/// The images of all namespaces.
#[derive(Clone)]
pub struct Images {
    db: Db,
    announcer: Announcer,
}

impl Images {
    /// Images in `db`; changes are announced by `announcer`.
    pub fn new(db: Db, announcer: Announcer) -> Self {
        Self { db, announcer }
    }

    /// The image of that name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn get(&self, namespace: &Id, name: &str) -> Result<Image> {
        let (namespace, name) = (namespace.clone(), name.to_owned());
        self.db.read(move |db| find(db, &namespace, &name)).await
    }

    /// The images of `namespace` that any of `filters` matches, by name; all
    /// without filters. Fields: `name`, `target.digest`, `target.mediatype`,
    /// `labels.<key>`, `annotations.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(&self, namespace: &Id, filters: &[S]) -> Result<Vec<Image>> {
        let filter = Filter::parse(filters)?;
        let namespace = Key::new(&[namespace])?;
        self.db
            .read(move |db| {
                let mut found = Vec::new();
                db.each(IMAGES, &namespace, |key, record: Record| {
                    let image = record.into_image(last_part(key)?.to_owned())?;
                    if filter.matches(&image) {
                        found.push(image);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Makes an image, and its namespace too if that is new. `at` is said to
    /// be its time, instead of the present. An image that expires
    /// ([`EXPIRE_LABEL`]) is held by `lease`.
    ///
    /// # Errors
    /// - `AlreadyExists` when there is one of that name;
    /// - `InvalidArgument` when it has no name, its target has no media type
    ///   or no size, or a label is too long;
    /// - `NotFound` when there is no such lease.
    pub async fn create(
        &self,
        namespace: &Id,
        image: Image,
        at: Option<SystemTime>,
        lease: Option<&str>,
    ) -> Result<Image> {
        let (room, lease) = (namespace.clone(), lease.map(str::to_owned));
        self.announcer
            .write(&self.db, namespace, move |change| {
                let mut image = image;
                validate(&image)?;
                namespaces::ensure(change, &room)?;
                if change.has(IMAGES, &Key::new(&[&room, &image.name])?)? {
                    let what = format!("image {:?} in namespace {room:?}", image.name);
                    return Err(Error::already_exists(what));
                }
                image.created_at = at.unwrap_or_else(SystemTime::now);
                image.updated_at = image.created_at;
                put(change, &room, &mut image, lease.as_deref())?;
                let event = ObjectEvent::ImageCreate {
                    name: image.name.clone(),
                    labels: image.labels.clone(),
                };
                Ok((image, event))
            })
            .await
    }

    /// Changes the fields of an image that `paths` names: `labels`,
    /// `labels.<key>`, `target`, `annotations`, `annotations.<key>`. No path
    /// stands for all of them. `image` has the new values; a label or
    /// annotation that it lacks is removed. `at` and `lease` as for
    /// [`Self::create`].
    ///
    /// # Errors
    /// `NotFound` when there is no such image; `InvalidArgument` when a path
    /// names another field; and as [`Self::create`].
    pub async fn update<S: AsRef<str>>(
        &self,
        namespace: &Id,
        image: Image,
        paths: &[S],
        at: Option<SystemTime>,
        lease: Option<&str>,
    ) -> Result<Image> {
        let fields = update::parse(paths, &image.name)?;
        let (room, lease) = (namespace.clone(), lease.map(str::to_owned));
        self.announcer
            .write(&self.db, namespace, move |change| {
                let old = find(change, &room, &image.name)?;
                let mut new = update::apply(old, &image, &fields);
                new.updated_at = at.unwrap_or_else(SystemTime::now);
                put(change, &room, &mut new, lease.as_deref())?;
                let event =
                    ObjectEvent::ImageUpdate { name: new.name.clone(), labels: new.labels.clone() };
                Ok((new, event))
            })
            .await
    }

    /// Forgets a name, and lets go of it in `lease`; if `target` is given, then
    /// only if the name still stands for that. What nothing else refers to may
    /// then be collected.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name, or it stands for something
    /// else (as in containerd).
    pub async fn delete(
        &self,
        namespace: &Id,
        name: &str,
        target: Option<&Digest>,
        lease: Option<&str>,
    ) -> Result<()> {
        let (room, name, target) = (namespace.clone(), name.to_owned(), target.cloned());
        let lease = lease.map(str::to_owned);
        self.announcer
            .write(&self.db, namespace, move |change| {
                let image = find(change, &room, &name)?;
                if let Some(expected) = target
                    && image.target.digest != expected
                {
                    let found = &image.target.digest;
                    return Err(Error::not_found(format!(
                        "image {name:?} in namespace {room:?} stands for {found}; one for {expected}"
                    )));
                }
                change.remove(IMAGES, &Key::new(&[&room, &name])?)?;
                if let Some(lease) = lease {
                    leases::let_go(change, &room, &lease, &held(&name))?;
                }
                Ok(((), ObjectEvent::ImageDelete { name }))
            })
            .await
    }
}

/// Namespace, name and target of all images.
pub(crate) fn targets(db: &impl Read) -> Result<Vec<(String, String, Digest)>> {
    let mut all = Vec::new();
    db.each(IMAGES, &Key::new(&[])?, |key, record: Record| {
        let [namespace, name] = last_parts(key)?;
        let image = record.into_image(name.to_owned())?;
        all.push((namespace.to_owned(), image.name, image.target.digest));
        Ok(())
    })?;
    Ok(all)
}

/// The rules for every record (containerd, `core/metadata/images.go`).
fn validate(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(Error::invalid("an image needs a name"));
    }
    let refuse = |why| Err(Error::invalid(format!("target of image {:?} {why}", image.name)));
    labels::validate(&image.labels)?;
    if image.target.size == 0 {
        return refuse("must have a size greater than zero");
    }
    if image.target.media_type.is_empty() {
        return refuse("must have a media type");
    }
    Ok(())
}

fn find(db: &impl Read, namespace: &Id, name: &str) -> Result<Image> {
    match db.get::<Record>(IMAGES, &Key::new(&[namespace, name])?)? {
        Some(record) => record.into_image(name.to_owned()),
        None => Err(Error::not_found(format!("image {name:?} in namespace {namespace:?}"))),
    }
}

/// Writes a record. Only an image that expires needs a lease: any other is
/// kept for its name's sake.
fn put(
    change: &mut Change<'_>,
    namespace: &Id,
    image: &mut Image,
    lease: Option<&str>,
) -> Result<()> {
    validate(image)?;
    labels::drop_empty(&mut image.labels);
    labels::drop_empty(&mut image.target.annotations);
    if let Some(lease) = lease
        && image.labels.contains_key(EXPIRE_LABEL)
    {
        leases::hold(change, namespace, lease, &held(&image.name))?;
    }
    let key = Key::new(&[namespace, &image.name])?;
    change.put(IMAGES, &key, &Record::from(image.clone()))
}

/// What a lease holds that holds an image.
fn held(name: &str) -> Resource {
    Resource { id: name.to_owned(), kind: "images".into() }
}
