//! Programs a group needs, built by cargo; the directory it builds in.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Root of this package.
pub(crate) fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    if let Some(dir) = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|d| d.is_dir()) {
        return dir;
    }
    // cargo tags its target directory; with `--target` it tags the platform's directory inside, too.
    env::current_exe()
        .ok()
        .and_then(|exe| {
            exe.ancestors().filter(|d| d.join("CACHEDIR.TAG").is_file()).last().map(Path::to_owned)
        })
        .unwrap_or_else(|| package().join("target"))
}

/// Builds the program (nothing to do when it is fresh) and gives its path.
///
/// # Panics
/// When it does not build.
pub(crate) fn program(release: bool, args: &[&str]) -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(package())
        .args(["build", "--message-format=json-render-diagnostics", "--quiet"])
        .args(args);
    if release {
        command.arg("--release");
    }
    let line = format!("{command:?}");
    let output =
        command.stderr(Stdio::inherit()).output().unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
    assert!(output.status.success(), "{line}: {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter_map(|m| m["executable"].as_str().map(PathBuf::from))
        .next_back()
        .unwrap_or_else(|| panic!("{line} built no program"))
}

/// Builds the program of a folder under `benches/` that is outside the workspace. `None`, and said so, where the folder is
/// not there: it is not part of the published package.
pub(crate) fn unpublished(group: &str, folder: &str, release: bool) -> Option<PathBuf> {
    let manifest = format!("benches/{folder}/Cargo.toml");
    if !package().join(&manifest).is_file() {
        eprintln!("{group}: left out, {manifest} is not part of the published package");
        return None;
    }
    Some(program(release, &["--manifest-path", &manifest]))
}
