//! Where the lab's server comes from: its programs, the user it runs as, and the folder it lives in.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::unistd::{User, chown, geteuid};
use tempfile::TempDir;

/// An unprivileged user for the server, because it refuses to run as root.
pub struct ServerUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The folder with `initdb` and `postgres`: the given one (or, when it is a number, the one of that major version), else
/// what `pg_config` says, else the newest that is installed, else one on the PATH.
pub fn find_bin_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = given {
        if is_server(dir) {
            return Ok(dir.to_owned());
        }
        let Some(major) = dir.to_str().and_then(|text| text.parse::<u32>().ok()) else {
            bail!("no initdb and postgres in {}: give the folder of PostgreSQL's server programs, or a major version", dir.display());
        };
        let known = installed();
        return known.iter().find(|(version, _)| *version == major).map(|(_, dir)| dir.clone()).with_context(|| {
            let majors: Vec<String> = known.iter().map(|(version, _)| version.to_string()).collect();
            format!("PostgreSQL {major} is not installed; there are: {} (scripts/servers.sh {major} fetches it)", majors.join(", "))
        });
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = pg_config("pg_config", "--bindir").into_iter().collect();
    candidates.extend(installed().into_iter().map(|(_, dir)| dir));
    candidates.extend(std::env::split_paths(&on_path));
    candidates
        .into_iter()
        .find(|dir| is_server(dir))
        .context("no PostgreSQL server found: install the package `postgresql`, or name the folder of initdb and postgres")
}

/// Major version and program folder of every server that is found: the system's own first, each newest first.
pub fn installed() -> Vec<(u32, PathBuf)> {
    let mut found = versions(Path::new("/usr/lib/postgresql"));
    found.extend(servers_dir().map(|dir| versions(&dir)).unwrap_or_default());
    found
}

/// `server_version_num` of the server in this folder; none where it does not say.
pub fn version_num(bin_dir: &Path) -> Option<i32> {
    let output = Command::new(bin_dir.join("postgres")).arg("--version").output().ok()?;
    number_of(&String::from_utf8(output.stdout).ok()?)
}

/// 150020 of `postgres (PostgreSQL) 15.20 (Debian ...)`.
fn number_of(version: &str) -> Option<i32> {
    let mut parts = version.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?.splitn(2, '.');
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<i32>().ok();
    let major = digits(parts.next()?)?;
    Some(major * 10_000 + parts.next().map_or(Some(0), digits)?)
}

/// Where `scripts/servers.sh` puts servers. Root's home is closed to the user that the server runs as.
fn servers_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("GALEN_SERVERS_DIR") {
        return Some(dir.into());
    }
    let cache = if geteuid().is_root() { "/var/cache".into() } else { PathBuf::from(std::env::var_os("HOME")?).join(".cache") };
    Some(cache.join("galen/servers"))
}

/// True when the server can preload this library.
pub fn has_library(bin_dir: &Path, library: &str) -> bool {
    let config = bin_dir.join("pg_config");
    let mut dirs: Vec<PathBuf> = pg_config(config, "--pkglibdir").into_iter().collect();
    if let Some(prefix) = bin_dir.parent() {
        dirs.extend([prefix.join("lib"), prefix.join("lib/postgresql"), prefix.join("lib64/pgsql")]);
    }
    dirs.iter().any(|dir| ["so", "dylib"].iter().any(|end| dir.join(format!("{library}.{end}")).exists()))
}

/// The user for the server when this process is root; none when it may run the server itself.
pub fn server_user() -> anyhow::Result<Option<ServerUser>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some(ServerUser { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
        }
    }
    bail!("PostgreSQL refuses to run as root and there is no user `postgres` or `nobody`: run the lab as another user")
}

/// A new folder, mode 0700, that the server's user owns and can reach.
pub fn make_folder(user: Option<&ServerUser>) -> anyhow::Result<TempDir> {
    let roots = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let root = roots.iter().find(|root| user.is_none() || reachable(root)).unwrap_or(&roots[0]);
    let folder = tempfile::Builder::new()
        .prefix("galen-lab-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(root)
        .with_context(|| format!("cannot make a folder for the lab in {}", root.display()))?;
    if let Some(user) = user {
        let (uid, gid) = (user.uid.into(), user.gid.into());
        chown(folder.path(), Some(uid), Some(gid)).context("cannot hand the lab's folder to the server's user")?;
    }
    Ok(folder)
}

fn is_server(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file()
}

fn pg_config(program: impl AsRef<std::ffi::OsStr>, question: &str) -> Option<PathBuf> {
    let output = Command::new(program).arg(question).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    (!answer.trim().is_empty()).then(|| PathBuf::from(answer.trim()))
}

/// Servers in folders named by their major version.
fn versions(root: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))));
    let mut found: Vec<(u32, PathBuf)> = found.filter(|(_, dir)| is_server(dir)).collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found
}

/// True when any user can walk to this folder, and make and remove folders in it.
fn reachable(folder: &Path) -> bool {
    let allows = |part: &Path, bits| part.metadata().is_ok_and(|meta| meta.permissions().mode() & bits == bits);
    allows(folder, 0o003) && folder.ancestors().all(|part| allows(part, 0o001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_server_is_refused_by_name() {
        let error = find_bin_dir(Some(Path::new("/nonexistent"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent") && error.contains("initdb"), "{error}");
        let error = find_bin_dir(Some(Path::new("7"))).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 7 is not installed"), "{error}");
    }

    #[test]
    fn a_server_says_its_version_as_it_does_to_its_clients() {
        assert_eq!(number_of("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(150_020));
        assert_eq!(number_of("postgres (PostgreSQL) 18beta2"), Some(180_000));
        assert_eq!(number_of("postgres (EnterpriseDB) 16.1"), None);
        let bin = find_bin_dir(None).unwrap();
        assert!(version_num(&bin).is_some_and(|number| number >= 130_000));
    }

    #[test]
    fn the_folder_is_private_and_goes_with_its_handle() {
        let folder = make_folder(None).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn an_absent_library_is_not_preloaded() {
        let bin = find_bin_dir(None).unwrap();
        assert!(has_library(&bin, "libpqwalreceiver"));
        assert!(!has_library(&bin, "no_such_library"));
    }
}
