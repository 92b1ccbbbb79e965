//! Shared by the benches: a counting allocator, an instruction counter, and tables.
#![allow(dead_code, unreachable_pub, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The system's allocator, with a count of allocations and live bytes.
pub struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);

/// Counts an allocation, or the growth of one.
fn count_allocation(by: usize, from: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    LIVE.fetch_add(by as i64 - from as i64, Relaxed);
}

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_allocation(size, layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Returns the number of allocations so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Returns the bytes that are allocated now, as requested from the allocator.
pub fn live_bytes() -> i64 {
    LIVE.load(Relaxed)
}

/// A piece of code to measure.
pub struct BenchCase {
    pub name: &'static str,
    /// The name of the case to compare with; `None` for a baseline.
    pub against: Option<&'static str>,
    /// Returns the code to measure, with its setup done. Not called for cases that do not run.
    pub prepare: Box<dyn Fn() -> Box<dyn FnMut()>>,
}

/// The measurements of a case, per run.
pub struct BenchResult {
    pub name: &'static str,
    pub against: Option<&'static str>,
    pub nanos: f64,
    pub allocations: f64,
    pub instructions: Option<f64>,
}

const ROUNDS: usize = 31;

/// Measures all cases in turn, round by round, so that changes in the machine's speed affect all of
/// them.
pub fn measure(cases: &[BenchCase], batch: u32) -> Vec<BenchResult> {
    let mut runs: Vec<_> = cases.iter().map(|case| (case.prepare)()).collect();
    let mut times = vec![Vec::new(); cases.len()];
    let mut allocated = vec![0.0; cases.len()];
    for run in &mut runs {
        for _ in 0..batch {
            run();
        }
    }
    for _ in 0..ROUNDS {
        for (index, run) in runs.iter_mut().enumerate() {
            let before = allocations();
            let started = Instant::now();
            for _ in 0..batch {
                run();
            }
            times[index].push(started.elapsed().as_nanos() as f64 / f64::from(batch));
            allocated[index] = (allocations() - before) as f64 / f64::from(batch);
        }
    }
    let measured = cases.iter().zip(times).zip(allocated);
    measured
        .map(|((case, mut times), allocations)| {
            times.sort_unstable_by(f64::total_cmp);
            BenchResult {
                name: case.name,
                against: case.against,
                nanos: times[times.len() / 2],
                allocations,
                instructions: count_instructions(case.name),
            }
        })
        .collect()
}

/// Runs a single case if this process was started to count its instructions, and returns whether it
/// did.
pub fn run_counted<'a>(cases: impl IntoIterator<Item = &'a BenchCase>) -> bool {
    let mut args = std::env::args().skip_while(|arg| arg != "--count-instructions");
    let (Some(_), Some(name), Some(times)) = (args.next(), args.next(), args.next()) else {
        return false;
    };
    let times: u32 = times.parse().expect("a number of runs");
    if let Some(case) = cases.into_iter().find(|case| case.name == name) {
        counted_runs(&mut *(case.prepare)(), times);
    }
    true
}

/// Runs the code of a case. Callgrind counts only the instructions of this function, by its name.
#[inline(never)]
fn counted_runs(run: &mut dyn FnMut(), times: u32) {
    for _ in 0..times {
        run();
    }
}

/// Returns the instructions per run, measured by callgrind if it is installed. The preparation of a
/// case does not count, because it may depend on the time: the clock of `governor` calibrates
/// itself. The result is the difference between a long and a short run, so that the first run does
/// not count either.
fn count_instructions(case: &str) -> Option<f64> {
    const SHORT: u32 = 2_000;
    const LONG: u32 = 22_000;
    let count = |times: u32| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg("--toggle-collect=*counted_runs*")
            .arg(std::env::current_exe().ok()?)
            .args(["--count-instructions", case, &times.to_string()])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find(|line| line.contains("Collected"))?;
        line.rsplit(' ').next()?.trim().parse::<f64>().ok()
    };
    Some((count(LONG)? - count(SHORT)?) / f64::from(LONG - SHORT))
}

/// Prints a table with the cost that each case adds to the one it is compared with.
pub fn print(title: &str, rows: &[BenchResult]) {
    println!("\n{title}\n");
    println!(
        "{:<44} {:>9} {:>8} {:>7} {:>9} {:>9}",
        "", "ns", "ratio", "allocs", "instr", "added"
    );
    for row in rows {
        let base = row
            .against
            .and_then(|name| rows.iter().find(|base| base.name == name));
        let ratio = base.map_or(String::new(), |base| {
            format!("{:.2} x", row.nanos / base.nanos)
        });
        let allocations = row.allocations - base.map_or(0.0, |base| base.allocations);
        let allocations = match base {
            Some(_) => format!("{allocations:+.1}"),
            None => format!("{allocations:.1}"),
        };
        let instructions = row
            .instructions
            .map_or("no counter".to_owned(), |count| format!("{count:.0}"));
        let added = base
            .and_then(|base| Some(row.instructions? - base.instructions?))
            .map_or(String::new(), |added| format!("{added:+.0}"));
        println!(
            "{:<44} {:>9.1} {ratio:>8} {allocations:>7} {instructions:>9} {added:>9}",
            row.name, row.nanos
        );
    }
}
