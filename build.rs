//! Compiles `proto/` without `protoc`. Does nothing unless the Agent's protocol is wanted.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");

    #[cfg(feature = "remote")]
    {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(true);
        compiler.open_files([
            "aperture/flowcontrol/check/v1/check.proto",
            "aperture/flowcontrol/checkhttp/v1/checkhttp.proto",
            "opentelemetry/proto/collector/trace/v1/trace_service.proto",
        ])?;
        let mut descriptors = compiler.file_descriptor_set();
        // Read by protobuf's JSON.
        let folder = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
        compiler.include_source_info(false);
        std::fs::write(
            std::path::Path::new(&folder).join("descriptors.bin"),
            compiler.encode_file_descriptor_set(),
        )?;
        // prost leaves out the value of a map's entry when it is the default, as it is when a key was
        // stored; an Agent never does, and protobuf.js cannot read it. As repeated entries they are
        // the same bytes, value included.
        for file in &mut descriptors.file {
            let source = file.source_code_info.get_or_insert_default();
            for (at, message) in (0..).zip(&mut file.message_type) {
                let ("CacheLookupResponse" | "CacheUpsertResponse" | "CacheDeleteResponse") =
                    message.name()
                else {
                    continue;
                };
                for (nested, entry) in (0..).zip(&mut message.nested_type) {
                    entry.options = None;
                    // The generator looks for what is said about each message and field.
                    for field in [&[][..], &[2, 0], &[2, 1]] {
                        source.location.push(Default::default());
                        if let Some(location) = source.location.last_mut() {
                            location.path = [&[4, at, 3, nested], field].concat();
                        }
                    }
                }
            }
        }
        tonic_prost_build::configure()
            .bytes(".aperture.flowcontrol.check.v1")
            .include_file("pb.rs")
            .compile_fds(descriptors)?;
    }
    Ok(())
}
