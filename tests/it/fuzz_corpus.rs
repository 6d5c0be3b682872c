//! The fuzz targets' checks over their corpora: what fuzzing once learned is held to by every test run.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;

fn run(name: &str) {
    let (_, check) = checks::ALL.iter().find(|(known, _)| *known == name).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = 0;
    for file in fs::read_dir(&corpus).unwrap() {
        let path = file.unwrap().path();
        // Without a panic of its own, a failing check would not name the file.
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files > 0, "{} is empty", corpus.display());
}

macro_rules! over_the_corpora {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+

        #[test]
        fn every_check_is_run() {
            let run = [$(stringify!($name)),+];
            assert!(checks::ALL.iter().map(|(name, _)| *name).eq(run));
        }
    };
}

over_the_corpora!(frames, client_frame, session, wire, op, token);
