//! The program `batchyard`: everything is in the library's `cli` module.

fn main() -> std::process::ExitCode {
    batchyard::cli::main()
}
