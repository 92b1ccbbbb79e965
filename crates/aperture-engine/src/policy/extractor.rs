//! Checks the sources of classifier rules: attributes, JSON pointers and path templates.

/// Checks that an attribute of a request exists.
pub(super) fn check_attribute(path: &str) -> Result<(), String> {
    const WHOLE: [&str; 11] = [
        "request.http.method",
        "request.http.path",
        "request.http.host",
        "request.http.protocol",
        "request.http.body",
        "request.http.id",
        "request.http.bearer",
        "source.address.socketAddress.address",
        "source.address.socketAddress.portValue",
        "destination.address.socketAddress.address",
        "destination.address.socketAddress.portValue",
    ];
    const WITH_NAME: [&str; 2] = ["request.http.headers.", "metadataContext.filterMetadata."];
    let named = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|name| !name.is_empty())
    };
    if WHOLE.contains(&path) || WITH_NAME.into_iter().any(named) {
        return Ok(());
    }
    let shown = super::yaml::shortened(path);
    Err(format!(
        "no such attribute: `{shown}`; the attributes are request.http.method, .path, .host, .protocol, \
         .body, .id, .bearer and .headers.<name>, metadataContext.filterMetadata.<name>, and \
         source or destination .address.socketAddress.address and .portValue"
    ))
}

/// Checks a JSON pointer (RFC 6901): it is empty, or each step begins with `/`, and each `~`
/// belongs to `~0` or `~1`.
pub(super) fn check_pointer(pointer: &str) -> Result<(), String> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err("a JSON pointer starts with `/`".to_owned());
    }
    let escapes = pointer.split('~').skip(1);
    if escapes.into_iter().all(|rest| rest.starts_with(['0', '1'])) {
        return Ok(());
    }
    Err("in a JSON pointer `~` is written `~0`, and `/` is written `~1`".to_owned())
}

/// Checks a path template: literal segments, then `{parameters}`, then optionally `*`.
pub(super) fn check_template(template: &str) -> Result<(), String> {
    let mut parameters = false;
    let mut segments = template.trim_matches('/').split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment == "*" {
            if segments.peek().is_some() {
                return Err("`*` can only be the last segment".to_owned());
            }
        } else if segment.starts_with('{') && segment.ends_with('}') {
            parameters = true;
        } else if parameters {
            let shown = super::yaml::shortened(segment);
            return Err(format!(
                "the segment `{shown}` follows a parameter; only parameters and `*` may follow one"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_of_a_request_are_accepted() {
        for path in [
            "request.http.method",
            "request.http.headers.x-kind",
            "request.http.headers.X.Y",
            "metadataContext.filterMetadata.a.b",
            "destination.address.socketAddress.portValue",
        ] {
            assert_eq!(check_attribute(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "request.http.scheme",
            "request.http.size",
            "request.http",
            "request.http.headers",
            "request.http.headers.",
            "request.http.Method",
            "source.address",
            "destination.address.socketAddress.port",
        ] {
            assert!(check_attribute(path).is_err(), "{path}");
        }
    }

    #[test]
    fn only_pointers_of_rfc_6901_are_accepted() {
        for pointer in ["", "/", "/a/b", "/a~1b", "/m~0n", "//", "/0"] {
            assert_eq!(check_pointer(pointer), Ok(()), "{pointer}");
        }
        for pointer in ["a", "#/a", "/a~", "/a~2", "/~/a"] {
            assert!(check_pointer(pointer).is_err(), "{pointer}");
        }
    }

    #[test]
    fn template_segments_are_literal_then_parameters_then_a_star() {
        for template in [
            "/",
            "/*",
            "",
            "*",
            "/register",
            "/users/{id}/*",
            "a/{b}/{c}/",
            "/a*/b",
        ] {
            assert_eq!(check_template(template), Ok(()), "{template}");
        }
        for template in ["/u/{id}/x", "/*/a", "/{a}/b/*"] {
            assert!(check_template(template).is_err(), "{template}");
        }
    }
}
