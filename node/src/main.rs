//! The binary `zgpu`.

fn main() -> std::process::ExitCode {
    // Mesa's device-select layer looks for a Wayland desktop and complains on stderr where there is none. Nothing here
    // wants its opinion: adapters are listed and chosen by what they are.
    if std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: this is the first statement of the program; no other thread exists that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    zgpu_node::cli::main()
}
