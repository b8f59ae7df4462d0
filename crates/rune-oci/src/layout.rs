//! OCI image layouts: an artefact and its signatures in a directory or in an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use bytes::Bytes;
use rune_spec::package::{MAX_PACKAGE_BYTES, replace_file};
use tar::{Archive, Builder, EntryType, Header};

use crate::artifact::{MAX_SBOM_BYTES, media_type};
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::signature::MAX_SIGNATURES;
use crate::{Artifact, Digest, Index, OciError, Signature, Signatures};

/// Largest layout in an archive: a package with everything that goes with it.
pub const MAX_LAYOUT_BYTES: u64 = MAX_PACKAGE_BYTES + MAX_SBOM_BYTES + 2 * MAX_MANIFEST_BYTES;
/// Most manifests of an index that are read: the package's, those of its signatures, and of what else refers to it.
const MAX_MANIFESTS: usize = 2 * MAX_SIGNATURES;
/// Most files of an archive.
const MAX_ENTRIES: usize = 1000;
/// The file that makes a directory a layout.
const MARKER: &str = "oci-layout";
const MARKER_TEXT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
const INDEX: &str = "index.json";
/// Where everything is that the index leads to.
const BLOBS: &str = "blobs/sha256";
/// The annotation by which tools find a manifest in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where and how the header of a tar archive says that it is one.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// An artefact with its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The artefact.
    pub artifact: Artifact,
    /// Its signatures.
    pub signatures: Signatures,
}

impl Layout {
    /// Whether there is a layout at this path: a directory with the marker, or an archive with it.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        if path.is_dir() {
            return path.join(MARKER).is_file();
        }
        has_marker(path).unwrap_or_default()
    }

    /// Reads a layout: a directory or an archive.
    ///
    /// # Errors
    /// [`OciError`] where it cannot be read, is not the layout of one package, or something in it is not what its digest says.
    pub fn read(path: &Path) -> Result<Self, OciError> {
        if !path.is_dir() {
            return Self::from_tar(&read_file(path, MAX_LAYOUT_BYTES)?);
        }
        Self::load(&|name, limit| {
            let path = path.join(name);
            path.is_file().then(|| read_file(&path, limit)).transpose()
        })
    }

    /// Reads a layout in an archive.
    ///
    /// # Errors
    /// As [`Layout::read`].
    pub fn from_tar(bytes: &Bytes) -> Result<Self, OciError> {
        let wrong = |error: io::Error| OciError::malformed("layout", error.to_string());
        if bytes.len() as u64 > MAX_LAYOUT_BYTES {
            return Err(too_large("layout", MAX_LAYOUT_BYTES));
        }
        let mut files = BTreeMap::new();
        let mut archive = Archive::new(bytes.as_ref());
        for entry in archive.entries().map_err(wrong)? {
            let mut entry = entry.map_err(wrong)?;
            if entry.header().entry_type() != EntryType::Regular {
                continue;
            }
            if files.len() >= MAX_ENTRIES {
                return Err(OciError::malformed("layout", "it has too many files"));
            }
            let name = name_of(&entry.path_bytes());
            let mut content = Vec::new();
            // A header may claim more than there is.
            entry.read_to_end(&mut content).map_err(wrong)?;
            files.insert(name, Bytes::from(content));
        }
        Self::load(&|name, limit| match files.get(name) {
            Some(bytes) if bytes.len() as u64 > limit => Err(too_large(name, limit)),
            found => Ok(found.cloned()),
        })
    }

    fn load(file: Files<'_>) -> Result<Self, OciError> {
        let need = |name: &str, limit| {
            let missing = || OciError::malformed("layout", format!("`{name}` is missing"));
            file(name, limit)?.ok_or_else(missing)
        };
        let blob = |digest: &Digest, limit| need(&blob_path(digest), limit);
        need(MARKER, MAX_MANIFEST_BYTES)?;
        let index = Index::parse(&need(INDEX, MAX_MANIFEST_BYTES)?)?;
        let mut packages = Vec::new();
        let mut others = Vec::new();
        let mut known = BTreeSet::new();
        let manifests = index.manifests.into_iter();
        let manifests = manifests.filter(|entry| entry.media_type == media_type::MANIFEST);
        for (n, entry) in manifests.enumerate() {
            if n >= MAX_MANIFESTS {
                let reason = format!("its index names more than {MAX_MANIFESTS} manifests");
                return Err(OciError::malformed("layout", reason));
            }
            // One with two tags is there twice.
            if !known.insert(entry.digest.clone()) {
                continue;
            }
            let manifest = blob(&entry.digest, MAX_MANIFEST_BYTES)?;
            entry.check(&manifest)?;
            match Artifact::parts(&manifest) {
                Ok(parts) => packages.push((manifest, parts)),
                Err(OciError::NotAnAgent { .. }) => others.push(manifest),
                Err(error) => return Err(error),
            }
        }
        let package = packages.pop();
        let (Some((manifest, parts)), true) = (package, packages.is_empty()) else {
            return Err(OciError::malformed(
                "layout",
                "it has not the package of one agent",
            ));
        };
        let mut blobs = BTreeMap::new();
        for part in parts {
            let bytes = blob(&part.digest, part.size)?;
            blobs.insert(part.digest, bytes);
        }
        let artifact = Artifact::from_parts(manifest, blobs)?;
        let mut signatures = Vec::new();
        for manifest in others.into_iter().take(MAX_SIGNATURES) {
            let Ok(envelope) = Signature::envelope_of(&manifest, artifact.digest()) else {
                continue;
            };
            let bytes = blob(&envelope.digest, envelope.size)?;
            signatures.push(Signature::from_parts(manifest, bytes, artifact.digest())?);
        }
        Ok(Self {
            artifact,
            signatures: Signatures(signatures),
        })
    }

    /// Every file, by its path.
    fn files(&self) -> BTreeMap<String, Bytes> {
        let mut index = vec![
            self.artifact
                .descriptor()
                .annotated(REF_NAME, self.artifact.version()),
        ];
        let mut files = BTreeMap::new();
        let mut add = |bytes: &Bytes| files.insert(blob_path(&Digest::of(bytes)), bytes.clone());
        add(self.artifact.manifest());
        for (_, bytes) in self.artifact.blobs() {
            add(bytes);
        }
        for signature in &self.signatures.0 {
            index.push(signature.descriptor());
            add(signature.manifest());
            for (_, bytes) in signature.blobs() {
                add(&bytes);
            }
        }
        files.insert(MARKER.to_owned(), Bytes::from_static(MARKER_TEXT));
        files.insert(INDEX.to_owned(), Index::new(index).to_bytes());
        files
    }

    /// The layout as a tar archive; the same layout gives the same bytes.
    ///
    /// # Errors
    /// [`OciError::Malformed`] where no archive can be made of it.
    pub fn to_tar(&self) -> Result<Bytes, OciError> {
        let wrong = |error: io::Error| OciError::malformed("layout", error.to_string());
        let mut builder = Builder::new(Vec::new());
        for (path, bytes) in self.files() {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            builder
                .append_data(&mut header, path, bytes.as_ref())
                .map_err(wrong)?;
        }
        builder.into_inner().map(Bytes::from).map_err(wrong)
    }

    /// Writes the layout: an archive where the path ends in `.tar` or is a file, a directory otherwise. What is at the path is
    /// replaced only where it is a layout.
    ///
    /// # Errors
    /// [`OciError::Io`] where it cannot be written, or something else is there.
    pub fn write(&self, path: &Path) -> Result<(), OciError> {
        let taken = path.exists() && !Self::is_at(path);
        let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if taken && !empty {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "something else is there");
            return Err(io_error("write", path)(source));
        }
        let is_archive = path.extension().is_some_and(|ending| ending == "tar") && !path.is_dir();
        if is_archive || path.is_file() {
            return replace(path, &self.to_tar()?);
        }
        let mut files = self.files();
        // The index last: it leads to what is there already.
        let index = files.remove(INDEX);
        for (name, bytes) in &files {
            replace(&path.join(name), bytes)?;
        }
        index.map_or(Ok(()), |bytes| replace(&path.join(INDEX), &bytes))?;
        remove_others(&path.join(BLOBS), &files)
    }
}

/// Removes what an earlier index led to and this one does not: it would be handed on with the layout.
fn remove_others(dir: &Path, files: &BTreeMap<String, Bytes>) -> Result<(), OciError> {
    let wrong = io_error("read", dir);
    for entry in fs::read_dir(dir).map_err(&wrong)? {
        let entry = entry.map_err(&wrong)?;
        let name = entry.file_name();
        let is_known = |name: &str| files.contains_key(&format!("{BLOBS}/{name}"));
        let is_file = entry.file_type().map_err(&wrong)?.is_file();
        if is_file && !name.to_str().is_some_and(is_known) {
            let path = entry.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Whether a file is a tar archive with the marker in it. Of other files only the beginning is read.
fn has_marker(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let mut head = [0; 512];
    file.read_exact(&mut head)?;
    let (at, magic) = TAR_MAGIC;
    if head.get(at..at + magic.len()) != Some(magic) {
        return Ok(false);
    }
    file.rewind()?;
    let mut archive = Archive::new(file);
    for entry in archive.entries_with_seek()?.take(MAX_ENTRIES) {
        if name_of(&entry?.path_bytes()) == MARKER {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The path of a file of an archive.
fn name_of(path: &[u8]) -> String {
    let name = String::from_utf8_lossy(path);
    name.strip_prefix("./").unwrap_or(&name).to_owned()
}

/// A file of a layout of at most so many bytes, where it is there.
type Files<'a> = &'a dyn Fn(&str, u64) -> Result<Option<Bytes>, OciError>;

fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

fn too_large(what: &str, limit: u64) -> OciError {
    OciError::TooLarge {
        what: what.to_owned(),
        limit,
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> OciError {
    let path = path.display().to_string();
    move |source| OciError::Io {
        operation,
        path: path.clone(),
        source,
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Bytes, OciError> {
    let wrong = io_error("read", path);
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(&wrong)?;
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(&wrong)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(&path.display().to_string(), limit));
    }
    Ok(bytes.into())
}

/// Writes a file whole or not at all, and the directories that it lies in.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), OciError> {
    let wrong = io_error("write", path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(&wrong)?;
    }
    replace_file(path, bytes).map_err(&wrong)
}
