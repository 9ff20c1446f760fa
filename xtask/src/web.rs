//! What browsers are shown: built from `web/` with npm, by lock file, before the server that embeds it is compiled.

use crate::{
    command::{root, run as run_command},
    prerequisites::node,
};
use anyhow::{Result, bail};
use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

/// Pages, each a directory of `web/` with a `package.json`, a lock file and a script `build` that fills `dist`.
const PAGES: [&str; 1] = ["docs"];

/// `cargo xtask web`.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if !args.is_empty() {
        bail!("web takes no arguments");
    }
    build()?;
    Ok(ExitCode::SUCCESS)
}

/// Builds what is not built from these sources yet.
pub(crate) fn build() -> Result<()> {
    node()?;
    for page in PAGES {
        let dir = root().join("web").join(page);
        let sources = sources(&dir)?;
        let marker = dir.join("node_modules/.built-from");
        if dir.join("dist").is_dir() && fs::read_to_string(&marker).is_ok_and(|built| built == sources) {
            continue;
        }
        println!("building web/{page}");
        // Packages run nothing when they are installed.
        run_command(npm(&dir).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
        run_command(npm(&dir).args(["run", "--silent", "build"]))?;
        fs::write(marker, sources)?;
    }
    Ok(())
}

fn npm(dir: &Path) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(dir);
    npm
}

/// All that a page is built from.
fn sources(dir: &Path) -> Result<String> {
    let mut texts = Vec::new();
    for directory in [dir.to_path_buf(), dir.join("page")] {
        let mut paths: Vec<_> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.sort();
        for path in paths.iter().filter(|path| path.is_file()) {
            texts.push(format!("== {}\n{}\n", path.display(), fs::read_to_string(path)?));
        }
    }
    Ok(texts.concat())
}
