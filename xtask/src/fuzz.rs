//! `cargo xtask fuzz`: libFuzzer on all that the agent parses.

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{cargo, check, root, target_dir},
    setup,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One parser only; each has a folder in fuzz/corpus
    target: Option<String>,
    /// How long, for each of them
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Finds go to target/fuzz: what is worth keeping is copied to fuzz/corpus by hand, where a test runs it from then on.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    setup::fuzz()?;
    let corpus = root().join("fuzz/corpus");
    let mut targets: Vec<String> = std::fs::read_dir(&corpus)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    targets.sort();
    if let Some(wanted) = &args.target {
        targets.retain(|target| target == wanted);
        ensure!(!targets.is_empty(), "no parser is called {wanted}");
    }
    for target in &targets {
        eprintln!("\n=== fuzzing {target} for {} s ===", args.seconds);
        let work = target_dir().join("fuzz").join(target);
        std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let mut fuzz = cargo();
        // Sanitizers are for nightly compilers, or for those that are told so.
        fuzz.env("RUSTC_BOOTSTRAP", "1").env("SSA_FUZZ", target).current_dir(root());
        fuzz.args(["fuzz", "run", "--fuzz-dir", "fuzz", "parse"]).arg(&work).arg(corpus.join(target)).arg("--");
        fuzz.args([
            &format!("-max_total_time={}", args.seconds),
            "-max_len=16384",
            "-timeout=10",
            "-rss_limit_mb=4096",
        ]);
        check(fuzz.arg(format!("-artifact_prefix={}/crash-", work.display())))?;
        let found = std::fs::read_dir(&work)?.count();
        println!("{target}: no crash; {found} inputs beside the corpus");
    }
    Ok(())
}
