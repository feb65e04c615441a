//! Pulls and imports on behalf of a person: the same whether the service or `--offline` runs them.

use std::sync::Arc;
use std::time::Duration;

use image::{Credentials, Images, ImportOptions, LayerStage, ProgressSink, PullRequest};
use model::ImageRef;
use tokio::sync::{mpsc, watch};

use crate::admin::api::{Arrived, Event, ImportBody, Layer, Phase, Progress, PullBody, Stage};

/// How often somebody who watches is told.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Pulls an image and reports to `events`. When nobody listens any more the pull goes on all the same.
pub(crate) async fn pull(images: Images, body: PullBody, events: mpsc::Sender<Event>) {
    let request = match request(&body) {
        Ok(request) => request,
        Err(message) => return drop(events.send(Event::Failed { message }).await),
    };
    let (progress, mut watched) = watch::channel(Progress::default());
    let request = PullRequest { progress: Some(sink(progress)), ..request };
    let mut job = tokio::spawn(async move {
        let name = request.reference.to_string();
        images.pull(request).await.map(|id| Arrived { id: id.to_string(), names: vec![name] })
    });
    let ended = loop {
        tokio::select! {
            ended = &mut job => break ended,
            changed = watched.changed() => match changed {
                Ok(()) => {
                    let progress = watched.borrow_and_update().clone();
                    if events.send(Event::Progress(progress)).await.is_err() {
                        return;
                    }
                    // Not into the end of the job: what comes next is seen after it.
                    tokio::select! {
                        ended = &mut job => break ended,
                        () = tokio::time::sleep(REPORT_EVERY) => {}
                    }
                }
                // The pull has dropped its sink; its end is near.
                Err(_) => break (&mut job).await,
            },
        }
    };
    if watched.has_changed().unwrap_or(true) {
        let last = watched.borrow_and_update().clone();
        let _ = events.send(Event::Progress(last)).await;
    }
    let event = match ended {
        Ok(Ok(image)) => Event::Done { images: vec![image] },
        Ok(Err(error)) => Event::Failed { message: model::chain(&error) },
        Err(error) => Event::Failed { message: format!("pull {}: {error}", body.reference) },
    };
    let _ = events.send(event).await;
}

fn request(body: &PullBody) -> Result<PullRequest, String> {
    let reference: ImageRef = body.reference.parse().map_err(|error| model::chain(&error))?;
    let auth = match &body.credentials {
        None => None,
        Some(text) => {
            let (username, password) = text.split_once(':').ok_or("credentials are not USER:PASSWORD")?;
            Some(Credentials {
                username: username.into(),
                password: password.into(),
                ..Credentials::default()
            })
        }
    };
    Ok(PullRequest { reference, auth, progress: None })
}

/// Folds what happens to a pull into the state that is shown.
fn sink(progress: watch::Sender<Progress>) -> ProgressSink {
    Arc::new(move |happened| progress.send_modify(|progress| apply(progress, happened)))
}

fn apply(progress: &mut Progress, happened: image::Progress) {
    match happened {
        image::Progress::Resolved { layers, .. } => {
            progress.phase = Phase::Unpacking;
            progress.layers = layers
                .into_iter()
                .map(|(digest, total)| Layer {
                    digest: digest.to_string(),
                    stage: Stage::Waiting,
                    done: 0,
                    total,
                })
                .collect();
        }
        image::Progress::Layer { digest, stage, done, total } => {
            let stage = match stage {
                LayerStage::Waiting => Stage::Waiting,
                LayerStage::Unpacking => Stage::Unpacking,
                LayerStage::Reused => Stage::Reused,
                LayerStage::Done => Stage::Done,
            };
            let moved = Layer { digest: digest.to_string(), stage, done, total };
            let mut known = false;
            // One image may have the same layer more than once.
            for layer in progress.layers.iter_mut().filter(|layer| layer.digest == moved.digest) {
                known = true;
                layer.clone_from(&moved);
            }
            // Who joins a pull that is under way has not seen its beginning.
            if !known {
                progress.phase = Phase::Unpacking;
                progress.layers.push(moved);
            }
        }
        image::Progress::Committing => progress.phase = Phase::Committing,
    }
}

/// Imports an archive and reports its end to `events`.
pub(crate) async fn import(images: Images, body: ImportBody, events: mpsc::Sender<Event>) {
    let name = match body.name.as_deref().map(str::parse::<ImageRef>).transpose() {
        Ok(name) => name,
        Err(error) => return drop(events.send(Event::Failed { message: model::chain(&error) }).await),
    };
    let event = match images.import(&body.path, ImportOptions { name }).await {
        Ok(imported) => {
            let arrived = |image: image::Imported| Arrived { id: image.id.to_string(), names: image.names };
            Event::Done { images: imported.into_iter().map(arrived).collect() }
        }
        Err(error) => Event::Failed { message: model::chain(&error) },
    };
    let _ = events.send(event).await;
}

#[cfg(test)]
mod tests {
    use model::Digest;

    use super::*;

    #[test]
    fn progress_is_folded_into_one_state() {
        let (a, b) = (Digest::sha256([1; 32]), Digest::sha256([2; 32]));
        let mut progress = Progress::default();
        apply(
            &mut progress,
            image::Progress::Resolved {
                manifest: a.clone(),
                layers: vec![(a.clone(), 10), (b.clone(), 20), (a.clone(), 10)],
            },
        );
        assert_eq!((progress.phase, progress.layers.len()), (Phase::Unpacking, 3));
        apply(
            &mut progress,
            image::Progress::Layer { digest: a.clone(), stage: LayerStage::Unpacking, done: 5, total: 10 },
        );
        let seen: Vec<_> = progress.layers.iter().map(|layer| (layer.stage, layer.done)).collect();
        assert_eq!(seen, [(Stage::Unpacking, 5), (Stage::Waiting, 0), (Stage::Unpacking, 5)]);
        apply(&mut progress, image::Progress::Committing);
        assert_eq!(progress.phase, Phase::Committing);

        let mut joined = Progress::default();
        apply(
            &mut joined,
            image::Progress::Layer { digest: b, stage: LayerStage::Done, done: 20, total: 20 },
        );
        assert_eq!((joined.phase, joined.layers.len()), (Phase::Unpacking, 1));
    }

    #[tokio::test]
    async fn what_cannot_be_asked_for_is_said() {
        for (reference, credentials, expected) in [
            ("UPPER", None, "invalid image reference \"UPPER\""),
            ("busybox", Some("nobody"), "credentials are not USER:PASSWORD"),
        ] {
            let body = PullBody { reference: reference.into(), credentials: credentials.map(str::to_owned) };
            let message = request(&body).err().unwrap();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
