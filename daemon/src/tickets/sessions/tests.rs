use std::os::unix::fs::PermissionsExt;

use super::*;

fn record(octet: u8) -> Secret {
    Secret::new(vec![octet; 300])
}

fn open(folder: &Path) -> Sessions {
    Sessions::open(folder, None).expect("open")
}

fn only(sessions: &Sessions) -> Result<Secret, Unsealed> {
    let mut all = sessions.load().expect("load");
    assert_eq!(all.len(), 1);
    all.remove(0).1
}

#[test]
fn a_session_outlives_the_process_and_an_erased_one_does_not() {
    let state = tempfile::tempdir().expect("folder");
    assert!(!Sessions::exist(state.path()));
    let sessions = open(state.path());
    for name in ["home", ".", "..", "a.session", "x.new"] {
        sessions.keep(name, &record(1)).expect("keep");
        sessions.keep(name, &record(2)).expect("replace");
    }
    let again = open(state.path());
    let all = again.load().expect("load");
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".", "..", "a.session", "home", "x.new"]);
    assert!(all.iter().all(|(_, octets)| *octets == Ok(record(2))));
    for name in names {
        again.erase(name).expect("erase");
        again.erase(name).expect("there need not be any");
    }
    assert!(open(state.path()).load().expect("load").is_empty());
    assert!(Sessions::exist(state.path()));
    assert!(again.keep("../escape", &record(1)).is_err());
}

#[test]
fn files_are_their_owners_and_show_nothing() {
    let state = tempfile::tempdir().expect("folder");
    open(state.path()).keep("home", &record(7)).expect("keep");
    let folder = state.path().join(FOLDER);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&state.path().join(KEY_FILE)), 0o600);
    let file = folder.join("home.session");
    assert_eq!(mode(&file), 0o600);
    let octets = fs::read(file).expect("read");
    assert!(!octets.windows(4).any(|window| window == [7; 4]));
}

#[test]
fn a_crash_at_any_octet_of_a_write_leaves_the_old_session() {
    let state = tempfile::tempdir().expect("folder");
    let sessions = open(state.path());
    let file = state.path().join(FOLDER).join("home.session");
    sessions.keep("home", &record(2)).expect("keep");
    let newer = fs::read(&file).expect("read");
    sessions.keep("home", &record(1)).expect("keep");
    let fresh = durable::fresh_name(&file);
    for end in 0..=newer.len() {
        fs::write(&fresh, &newer[..end]).expect("leave behind");
        assert_eq!(only(&open(state.path())), Ok(record(1)), "cut at {end}");
        assert!(!fresh.exists(), "the rest is removed");
    }
    // Killed between the two names: the rename happened.
    fs::write(&fresh, &newer).expect("leave behind");
    fs::rename(&fresh, &file).expect("rename");
    assert_eq!(only(&open(state.path())), Ok(record(2)));
    // Killed while writing the first session of a connection: there is none.
    sessions.erase("home").expect("erase");
    fs::write(&fresh, &newer).expect("leave behind");
    assert!(open(state.path()).load().expect("load").is_empty());
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let state = tempfile::tempdir().expect("folder");
    let sessions = open(state.path());
    let file = state.path().join(FOLDER).join("home.session");
    sessions.keep("home", &record(1)).expect("keep");
    let whole = fs::read(&file).expect("read");
    for end in 0..whole.len() {
        fs::write(&file, &whole[..end]).expect("cut");
        assert_eq!(only(&sessions), Err(Unsealed::Seal), "cut at {end}");
    }
    for bit in 0..whole.len() * 8 {
        let mut bent = whole.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, bent).expect("bend");
        assert_eq!(only(&sessions), Err(Unsealed::Seal), "bit {bit}");
    }
    fs::write(&file, vec![0; 1 << 20]).expect("blow up");
    assert_eq!(only(&sessions), Err(Unsealed::Seal));
    fs::write(&file, whole).expect("put back");
    assert_eq!(only(&sessions), Ok(record(1)));
}

#[test]
fn a_session_opens_under_its_own_name_and_key_only() {
    let state = tempfile::tempdir().expect("folder");
    let sessions = open(state.path());
    sessions.keep("home", &record(1)).expect("keep");
    let folder = state.path().join(FOLDER);
    fs::rename(folder.join("home.session"), folder.join("work.session")).expect("rename");
    assert_eq!(only(&sessions), Err(Unsealed::Seal), "another name");
    fs::rename(folder.join("work.session"), folder.join("home.session")).expect("rename");
    fs::remove_file(state.path().join(KEY_FILE)).expect("lose the key");
    assert_eq!(
        only(&open(state.path())),
        Err(Unsealed::Seal),
        "another key"
    );
}

#[test]
fn a_damaged_key_is_an_error_with_a_cure_and_is_left_alone() {
    let state = tempfile::tempdir().expect("folder");
    open(state.path()).keep("home", &record(1)).expect("keep");
    let path = state.path().join(KEY_FILE);
    let good = fs::read(&path).expect("read");
    let mut bent = good.clone();
    bent[12] ^= 1;
    fs::write(&path, &bent).expect("bend");
    let said = Sessions::open(state.path(), None)
        .expect_err("damaged")
        .to_string();
    assert!(
        said.contains("session-key") && said.contains("move it away"),
        "{said}"
    );
    assert_eq!(fs::read(&path).expect("read"), bent);
    fs::write(&path, good).expect("put back");
    assert_eq!(only(&open(state.path())), Ok(record(1)));
}

#[test]
fn a_credential_of_systemd_takes_the_place_of_the_key_file() {
    let state = tempfile::tempdir().expect("folder");
    let credentials = tempfile::tempdir().expect("folder");
    let path = credentials.path().join(CREDENTIAL);
    fs::write(&path, [5; KEY_LEN]).expect("write");
    let open = || Sessions::open(state.path(), Some(credentials.path()));
    open()
        .expect("open")
        .keep("home", &record(1))
        .expect("keep");
    assert_eq!(only(&open().expect("open")), Ok(record(1)));
    assert!(!state.path().join(KEY_FILE).exists());
    fs::write(&path, [5; KEY_LEN - 1]).expect("write");
    assert!(matches!(open(), Err(SessionError::Credential(_))));
}

#[test]
fn what_cannot_be_written_or_erased_is_an_error() {
    let state = tempfile::tempdir().expect("folder");
    let sessions = open(state.path());
    let folder = state.path().join(FOLDER);
    fs::remove_dir_all(&folder).expect("remove");
    fs::write(&folder, "").expect("a file where the folder was");
    assert!(sessions.keep("home", &record(1)).is_err());
    assert!(sessions.erase("home").is_err());
}
