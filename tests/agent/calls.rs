use tower_aperture::Engine;
use tower_aperture::pb::check::CheckRequest;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};

use crate::support::Served;

const TWO: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: two
  rate_limiter:
    bucket_capacity: 2
    fill_amount: 0.001
    parameters: {interval: 60s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
";

#[tokio::test]
async fn a_check_is_answered_as_the_policy_says() {
    let engine = Engine::builder()
        .policy_text("two.yaml", TWO)
        .build()
        .expect("a policy");
    let served = Served::start(engine, |agent| agent).await;
    let mut checks = served.checks().await;
    let request = CheckRequest {
        control_point: "checkout".into(),
        labels: [("user_id".into(), "42".into())].into(),
        expect_end: true,
        ..CheckRequest::default()
    };
    for expected in [
        DecisionType::Accepted,
        DecisionType::Accepted,
        DecisionType::Rejected,
    ] {
        let answer = checks
            .check(request.clone())
            .await
            .expect("an answer")
            .into_inner();
        assert_eq!(answer.decision_type(), expected);
        assert!(answer.start.is_some() && answer.end.is_some());
        assert!(answer.expect_end);
        if expected == DecisionType::Rejected {
            assert_eq!(answer.reject_reason(), RejectReason::RateLimited);
            assert_eq!(answer.denied_response_status_code, 429);
            assert!(answer.wait_time.is_some());
        }
    }
    served.stop().await;
}
