//! Compiles `proto/` without `protoc`, if the feature `remote` is enabled.

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
        // The descriptors without source info are for protobuf's JSON and for reflection.
        let folder = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; cargo sets it")?;
        compiler.include_source_info(false);
        std::fs::write(
            std::path::Path::new(&folder).join("descriptors.bin"),
            compiler.encode_file_descriptor_set(),
        )?;
        // prost omits the value of a map entry if it is the default, as in the response for a stored
        // key. An Agent always sends it, and protobuf.js cannot read entries without it. A repeated
        // field of entries has the same encoding and keeps the value, so the map option is removed.
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
                    // The generator requires source info for each message and field.
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
