//! The JSON of an answer to a query.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Characters of an error's text that are repeated in the log.
const LONGEST_ERROR: usize = 200;

/// An answer that makes sense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    /// A scalar, or the value of the only series.
    Number(f64),
    /// No series has a value now.
    Empty,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(rename = "errorType")]
    error_type: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(rename = "resultType")]
    result_type: String,
    #[serde(borrow)]
    result: &'a RawValue,
}

/// A time and a value.
type Sample = (f64, String);

#[derive(Deserialize)]
struct Series {
    /// Absent for native histograms.
    value: Option<Sample>,
}

/// Reads an answer. The inner error is the end of a sentence about Prometheus.
///
/// # Errors
///
/// When the text is none of its API.
pub(super) fn read(body: &[u8]) -> Result<Result<Answer, String>, serde_json::Error> {
    let response: Response<'_> = serde_json::from_slice(body)?;
    let Some(data) = response.data else {
        let kind = response.error_type.unwrap_or_default();
        let text = response.error.unwrap_or_default();
        return Ok(Err(format!(
            "refuses it: {}: {}",
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
            let series: Vec<Series> = serde_json::from_str(data.result.get())?;
            let mut series = series.into_iter();
            match (series.next(), series.next()) {
                (None, _) => return Ok(Ok(Answer::Empty)),
                (Some(_), Some(_)) => {
                    return Ok(Err("knows several series for it; one is needed".into()));
                }
                (Some(Series { value: None }), None) => {
                    return Ok(Err("answers a histogram; one number is needed".into()));
                }
                (Some(Series { value: Some(value) }), None) => value.1,
            }
        }
        "matrix" => return Ok(Err("answers a range; one number is needed".into())),
        _ => return Ok(Err("answers a text; one number is needed".into())),
    };
    Ok(match value.parse::<f64>() {
        Ok(value) if value.is_nan() => Err("answers NaN".into()),
        Ok(value) => Ok(Answer::Number(value)),
        Err(_) => Err("answers what is not a number".into()),
    })
}

/// Shortens a text of another process, on one line.
fn clean(text: &str) -> String {
    let characters = text.chars().take(LONGEST_ERROR);
    characters
        .map(|one| if one.is_control() { ' ' } else { one })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_an_answer_and_so_is_no_series() {
        for (text, answer) in [
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2.5"]}}"#,
                Answer::Number(2.5),
            ),
            (
                r#"{"data":{"result":[{"metric":{"a":"b"},"value":[1.5,"-Inf"]}],"resultType":"vector"},"status":"success"}"#,
                Answer::Number(f64::NEG_INFINITY),
            ),
            (
                r#"{"status":"success","warnings":["w"],"data":{"resultType":"vector","result":[]}}"#,
                Answer::Empty,
            ),
        ] {
            assert_eq!(
                read(text.as_bytes()).expect("an answer"),
                Ok(answer),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_no_number() {
        for (text, why) in [
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
                "refuses it: bad_data: parse error",
            ),
        ] {
            let answer = read(text.as_bytes()).expect("an answer");
            let told = answer.expect_err(text);
            assert!(told.contains(why), "{told}");
        }
        for text in [
            "",
            "<html>",
            "[1]",
            r#"{"data":{"resultType":"vector","result":[1]}}"#,
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        let long = format!(r#"{{"status":"error","error":"{}"}}"#, "x".repeat(5000));
        let told = read(long.as_bytes())
            .expect("an answer")
            .expect_err("an error");
        assert!(told.len() < 300, "{}", told.len());
    }
}
