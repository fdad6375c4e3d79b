//! Debian packages that are not to be installed: fetched through apt, with its signature checks, into a folder
//! of their own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::process::{check, output};

/// Keyring with the keys of all the suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Greatest age of the lists of packages.
const LISTS_AGE: Duration = Duration::from_secs(24 * 3600);

/// Lists and packages of some suites, apart from the machine's own.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Fetches the lists of `suites` from the mirror that this machine uses, unless they are of today.
    pub(crate) fn open(folder: &Path, suites: &[&str]) -> Result<Self> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(dir))?;
        }
        let apt = Self { folder: folder.to_owned() };
        let mirror = mirror()?;
        let lines: String =
            suites.iter().map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")).collect();
        let list = apt.list();
        let age = fs::metadata(&list).and_then(|metadata| metadata.modified()).ok();
        let fresh = age.is_some_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < LISTS_AGE));
        if fresh && fs::read_to_string(&list).is_ok_and(|old| old == lines) {
            return Ok(apt);
        }
        // Last, it says that the lists are complete.
        let new = folder.join("sources.list.new");
        fs::write(&new, &lines)?;
        check(apt.command("apt-get", &new).arg("update"))?;
        fs::rename(new, list)?;
        Ok(apt)
    }

    /// The names of packages that begin like this.
    pub(crate) fn names(&self, beginning: &str) -> Result<Vec<String>> {
        let names = output(self.command("apt-cache", &self.list()).args(["pkgnames", beginning]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Names of the packages that one depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output(self.command("apt-cache", &self.list()).args(["depends", "--important", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Fetches packages (`name` or `name=version`) and unpacks them into `tree`.
    pub(crate) fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        let folder = self.folder.join("packages");
        // Of an earlier call that failed.
        let _absent = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(tree)?;
        check(self.command("apt-get", &self.list()).current_dir(&folder).arg("download").args(packages))?;
        for package in fs::read_dir(&folder)? {
            check(Command::new("dpkg").arg("-x").arg(package?.path()).arg(tree))?;
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    fn list(&self) -> PathBuf {
        self.folder.join("sources.list")
    }

    fn command(&self, executable: &str, list: &Path) -> Command {
        let mut apt = Command::new(executable);
        apt.current_dir(&self.folder)
            .arg("-q")
            .arg(format!("-oDir::Etc::sourcelist={}", list.display()))
            .arg("-oDir::Etc::sourceparts=/dev/null")
            .arg(format!("-oDir::State::lists={}", self.folder.join("lists").display()))
            .arg(format!("-oDir::Cache={}", self.folder.join("cache").display()))
            .arg("-oAPT::Sandbox::User=root");
        apt
    }
}

/// A folder for what is fetched once for all checkouts.
pub(crate) fn cache(name: &str) -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("ssa").join(name))
}

/// The Debian mirror that this machine's apt uses.
pub(crate) fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.filter_map(|entry| Some(entry.ok()?.path())));
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let uri = text.lines().find_map(|line| {
            let words = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))?;
            words.split_whitespace().find(|word| word.trim_end_matches('/').ends_with("/debian"))
        });
        if let Some(uri) = uri {
            return Ok(uri.to_owned());
        }
    }
    bail!("no Debian mirror in /etc/apt/sources.list or sources.list.d; add one")
}
