//! Python environments: built once, waited for, refused with what pip said, stopped whole. Without a
//! network: packages are directories of the snapshot itself.

use crate::rig::{helper, until};
use fetchml_api::FailureCause;
use fetchml_worker::staging::{Cache, EnvironmentRequest, Environments, PythonEnvironment, StageError};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Lab {
    data: TempDir,
    environments: Environments,
    cancel: CancellationToken,
}

impl Lab {
    async fn new() -> Self {
        let data = TempDir::new().unwrap();
        let cache = Cache::open(data.path(), None).unwrap();
        let environments = Environments::new(cache, data.path(), Arc::new(helper().await));
        Self { data, environments, cancel: CancellationToken::new() }
    }

    /// A directory with these files.
    fn snapshot(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.data.path().join(name);
        for (path, text) in files {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        root
    }

    async fn prepare(&self, root: &Path) -> Result<Option<PythonEnvironment>, StageError> {
        let request = EnvironmentRequest {
            snapshot_root: root,
            snapshot_id: "sha256:00",
            log: &root.join("log"),
            cancel: &self.cancel,
        };
        Ok(self.environments.prepare(request).await?.map(|(environment, _)| environment))
    }
}

fn log(root: &Path) -> String {
    fs::read_to_string(root.join("log")).unwrap()
}

#[tokio::test]
async fn two_requests_build_once_and_a_later_one_reuses() {
    let lab = Lab::new().await;
    let files = [("requirements.txt", "# nothing to install\n")];
    let (one, two) = (lab.snapshot("one", &files), lab.snapshot("two", &files));
    let (first, second) = tokio::join!(lab.prepare(&one), lab.prepare(&two));
    let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
    assert_eq!((first.reused, second.reused), (false, true));
    assert_eq!(first.root, second.root);
    assert!(log(&one).contains("building from requirements.txt with") && log(&one).contains(": ready"));
    assert!(log(&two).contains("waiting for the build") && log(&two).contains(": reused"));

    let version = Command::new(first.python()).args(["-c", "import sys; print(sys.prefix)"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), first.root.to_str().unwrap());
    assert!(fs::metadata(first.root.join("pyvenv.cfg")).unwrap().permissions().readonly());

    // An agent started anew.
    let cache = Cache::open(lab.data.path(), None).unwrap();
    let again = Environments::new(cache, lab.data.path(), Arc::new(helper().await));
    let three = lab.snapshot("three", &files);
    let request = EnvironmentRequest {
        snapshot_root: &three,
        snapshot_id: "sha256:01",
        log: &three.join("log"),
        cancel: &lab.cancel,
    };
    assert!(again.prepare(request).await.unwrap().unwrap().0.reused);
    assert_eq!(log(&three), format!("fetchml: environment {}: reused\n", &first.hash[..12]));
}

#[tokio::test]
async fn a_snapshot_that_asks_for_nothing_gets_none() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &[("train.py", "")]);
    assert_eq!(lab.prepare(&root).await, Ok(None));
    assert!(!root.join("log").exists());
}

#[tokio::test]
async fn a_half_built_environment_is_wiped_and_built_again() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &[("requirements.txt", "")]);
    let built = lab.prepare(&root).await.unwrap().unwrap();
    fs::remove_file(built.root.join(".ready")).unwrap();
    fs::write(built.root.join("rubbish"), "").unwrap();
    let again = lab.prepare(&root).await.unwrap().unwrap();
    assert!(!again.reused && !again.root.join("rubbish").exists());
}

#[tokio::test]
async fn requirements_that_cannot_be_had_fail_with_what_the_builder_said() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &[("requirements.txt", "./no-such-package-directory\n")]);
    let error = lab.prepare(&root).await.unwrap_err();
    assert_eq!((error.cause, error.transient), (FailureCause::Environment, false), "{error}");
    assert!(error.message.contains("no-such-package-directory"), "{error}");
    assert!(log(&root).contains("no-such-package-directory"));
    let left = fs::read_dir(lab.data.path().join("envs")).unwrap().flatten().map(|entry| entry.path());
    assert!(left.into_iter().all(|path| !path.join(".ready").exists()));
    let root = lab.snapshot("two", &[("pyproject.toml", "[project]\ndependencies = 3\n")]);
    assert_eq!(lab.prepare(&root).await.unwrap_err().cause, FailureCause::Environment);
}

/// A package whose build says so, then never ends, with a child in a session of its own.
const ENDLESS: [(&str, &str); 3] = [
    ("requirements.txt", "./package\n"),
    ("package/pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n"),
    (
        "package/backend.py",
        "import os, subprocess, time\n\
         def forever(*_):\n\
        \x20   child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n\
        \x20   open(os.path.join(os.path.dirname(__file__), 'pid.new'), 'w').write(str(child.pid))\n\
        \x20   os.rename(os.path.join(os.path.dirname(__file__), 'pid.new'), os.path.join(os.path.dirname(__file__), 'pid'))\n\
        \x20   time.sleep(1000)\n\
         get_requires_for_build_wheel = prepare_metadata_for_build_wheel = build_wheel = forever\n",
    ),
];

#[tokio::test]
async fn cancelling_kills_the_builders_whole_tree() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &ENDLESS);
    let stop = async {
        let pid = root.join("package/pid");
        let child = until("the build to be under way", || fs::read_to_string(&pid).ok()).await;
        lab.cancel.cancel();
        child
    };
    let (result, child) = tokio::join!(lab.prepare(&root), stop);
    assert_eq!(result.unwrap_err().cause, FailureCause::Cancelled);
    let stat = fs::read_to_string(format!("/proc/{child}/stat"));
    assert!(stat.is_err(), "{stat:?}");
}
