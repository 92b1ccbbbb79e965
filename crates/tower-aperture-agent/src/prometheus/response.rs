//! Parses the JSON responses of the Prometheus query API.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Characters of a Prometheus error that are repeated in the log.
const MAX_ERROR_CHARS: usize = 200;

/// A valid result of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum QueryResult {
    /// A scalar, or the value of the only series.
    Number(f64),
    /// No series has a value at present.
    Empty,
}

#[derive(Deserialize)]
struct ApiResponse<'a> {
    #[serde(borrow)]
    data: Option<ApiData<'a>>,
    #[serde(rename = "errorType")]
    error_type: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct ApiData<'a> {
    #[serde(rename = "resultType")]
    result_type: String,
    #[serde(borrow)]
    result: &'a RawValue,
}

/// A time and a value.
type Sample = (f64, String);

#[derive(Deserialize)]
struct ApiSeries {
    /// Absent for native histograms.
    value: Option<Sample>,
}

/// Parses a response. The inner error is the predicate of a sentence with Prometheus as its
/// subject.
///
/// # Errors
///
/// Returns an error when the text is not a response of the query API.
pub(super) fn parse(body: &[u8]) -> Result<Result<QueryResult, String>, serde_json::Error> {
    let response: ApiResponse<'_> = serde_json::from_slice(body)?;
    let Some(data) = response.data else {
        let kind = response.error_type.unwrap_or_default();
        let text = response.error.unwrap_or_default();
        return Ok(Err(format!(
            "refuses the query: {}: {}",
            clean(&kind),
            clean(&text)
        )));
    };
    let value = match &*data.result_type {
        "scalar" => {
            let (_, value): Sample = serde_json::from_str(data.result.get())?;
            value
        }
        "vector" => {
            let series: Vec<ApiSeries> = serde_json::from_str(data.result.get())?;
            let mut series = series.into_iter();
            match (series.next(), series.next()) {
                (None, _) => return Ok(Ok(QueryResult::Empty)),
                (Some(_), Some(_)) => {
                    return Ok(Err("returns several series; one is needed".into()));
                }
                (Some(ApiSeries { value: None }), None) => {
                    return Ok(Err("returns a histogram; one number is needed".into()));
                }
                (Some(ApiSeries { value: Some(value) }), None) => value.1,
            }
        }
        "matrix" => return Ok(Err("returns a range; one number is needed".into())),
        _ => return Ok(Err("returns a text; one number is needed".into())),
    };
    Ok(match value.parse::<f64>() {
        Ok(value) if value.is_nan() => Err("returns NaN".into()),
        Ok(value) => Ok(QueryResult::Number(value)),
        Err(_) => Err("returns a value that is not a number".into()),
    })
}

/// Shortens a text of another process and puts it on one line.
fn clean(text: &str) -> String {
    let characters = text.chars().take(MAX_ERROR_CHARS);
    characters
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_and_no_series_are_valid() {
        for (text, result) in [
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2.5"]}}"#,
                QueryResult::Number(2.5),
            ),
            (
                r#"{"data":{"result":[{"metric":{"a":"b"},"value":[1.5,"-Inf"]}],"resultType":"vector"},"status":"success"}"#,
                QueryResult::Number(f64::NEG_INFINITY),
            ),
            (
                r#"{"status":"success","warnings":["w"],"data":{"resultType":"vector","result":[]}}"#,
                QueryResult::Empty,
            ),
        ] {
            assert_eq!(
                parse(text.as_bytes()).expect("a response of the API"),
                Ok(result),
                "{text}"
            );
        }
    }

    #[test]
    fn other_responses_are_errors() {
        for (text, reason) in [
            (
                r#"{"data":{"resultType":"scalar","result":[1,"NaN"]}}"#,
                "NaN",
            ),
            (
                r#"{"data":{"resultType":"scalar","result":[1,"one"]}}"#,
                "not a number",
            ),
            (
                r#"{"data":{"resultType":"string","result":[1,"one"]}}"#,
                "a text",
            ),
            (r#"{"data":{"resultType":"matrix","result":[]}}"#, "a range"),
            (
                r#"{"data":{"resultType":"vector","result":[{"value":[1,"1"]},{"value":[1,"2"]}]}}"#,
                "several",
            ),
            (
                r#"{"data":{"resultType":"vector","result":[{"histogram":[1,{}]}]}}"#,
                "histogram",
            ),
            (
                r#"{"status":"error","errorType":"bad_data","error":"parse\nerror"}"#,
                "refuses the query: bad_data: parse error",
            ),
        ] {
            let result = parse(text.as_bytes()).expect("a response of the API");
            let error = result.expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
        for text in [
            "",
            "<html>",
            "[1]",
            r#"{"data":{"resultType":"vector","result":[1]}}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let long = format!(r#"{{"status":"error","error":"{}"}}"#, "x".repeat(5000));
        let error = parse(long.as_bytes())
            .expect("a response of the API")
            .expect_err("an error");
        assert!(error.len() < 300, "{}", error.len());
    }
}
