//! The image of the node's programs, of those that were built for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::script::CHECKOUT;
use common::daemon::stripped;
use common::programs;

/// A folder with the binaries that Cargo has built for the tests.
pub fn binaries() -> PathBuf {
    let binaries = [
        programs::pausenetd(),
        programs::pausenet(),
        programs::pausectl(),
        programs::pause(),
    ];
    let binaries = binaries.map(stripped);
    binaries[0].parent().unwrap().to_owned()
}

/// The image pausenet/node, of those.
pub fn node_image() -> PathBuf {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-node.tar");
    let output = Command::new(Path::new(CHECKOUT).join("scripts/image.sh"))
        .args(["--node", "--binaries"])
        .arg(binaries())
        .arg("--output")
        .arg(&image)
        .output()
        .unwrap();
    assert!(output.status.success(), "image.sh: {output:?}");
    image
}
