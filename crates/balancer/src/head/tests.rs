use super::*;

fn parse(head: &str) -> Result<(RequestHead, String), u16> {
    let mut searched = 0;
    let end = find_end(head.as_bytes(), &mut searched).map_err(|reject| reject.status)?;
    let end = end.expect("the head is complete");
    let mut out = Vec::new();
    let listener = SocketAddr::from(([127, 0, 0, 1], 80));
    let parsed = request(&head.as_bytes()[..end], IpAddr::from([10, 0, 0, 9]), listener, &mut out);
    let parsed = parsed.map_err(|reject| reject.status)?;
    Ok((parsed, String::from_utf8(out).expect("tests are text")))
}

#[test]
fn hostile_request_heads_are_refused() {
    let many = (0..101).map(|at| format!("X-{at}: y\r\n")).collect::<String>();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(HEAD_MAX));
    let cases: &[(u16, &str)] = &[
        (400, "GET / HTTP/1.1\nHost: a\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\tHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /\r\nHost: a\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n"),
        (501, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (431, &many),
        (431, &long),
    ];
    for (status, head) in cases {
        let result = parse(head).map(|(_, out)| out);
        assert_eq!(result, Err(*status), "{:?}", &head[..head.len().min(120)]);
    }
}

#[test]
fn every_split_of_a_head_is_read_alike() {
    let head = b"GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nrest";
    for split in 0..head.len() - 4 {
        let mut searched = 0;
        let first = find_end(&head[..split], &mut searched);
        assert_eq!(first, Ok(None), "split {split}");
        assert_eq!(find_end(head, &mut searched), Ok(Some(head.len() - 4)), "split {split}");
    }
    let fold = b"GET /x HTTP/1.1\r\nHost: a\r\n b\r\n\r\n";
    for split in 0..27 {
        let mut searched = 0;
        let first = find_end(&fold[..split], &mut searched);
        assert!(first.is_err() || find_end(fold, &mut searched).is_err(), "split {split}");
    }
}

#[test]
fn what_speaks_of_this_connection_is_not_passed_on() {
    let (head, out) = parse(
        "GET http://real.example:81/p?q=1 HTTP/1.1\r\nHost: other\r\nConnection: close, X-Secret, Host\r\nX-Secret: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Forwarded-For: 1.2.3.4\r\n\
         X-Forwarded-Proto: https\r\nAccept: */*\r\n\r\n",
    )
    .expect("valid");
    assert_eq!(
        out,
        "GET /p?q=1 HTTP/1.1\r\nHost: real.example:81\r\nAccept: */*\r\nX-Forwarded-For: 1.2.3.4, 10.0.0.9\r\n\
         X-Forwarded-Proto: http\r\n\r\n"
    );
    assert!(!head.keep && !head.upgrade && head.idempotent && head.body.is_done());
    // What is passed on reads to itself, but for our own mark.
    let (again, _) = parse(&out).expect("valid");
    assert_eq!(again.body, head.body);
}

#[test]
fn bodies_upgrades_and_persistence_are_recognised() {
    let (post, out) = parse("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n").expect("valid");
    assert!(!post.idempotent && post.keep && matches!(post.body, Body::Chunked(_)));
    assert!(out.contains("\r\nTransfer-Encoding: chunked\r\n"));
    let (put, _) = parse("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").expect("valid");
    assert!(put.idempotent && put.body == Body::Length(12));
    let (old, out) = parse("GET / HTTP/1.0\r\n\r\n").expect("valid");
    assert!(old.is_http10 && !old.keep && out.contains("Host: 127.0.0.1:80\r\n"));
    let (old, _) = parse("HEAD / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").expect("valid");
    assert!(old.keep && old.is_head);
    let (socket, out) =
        parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .expect("valid");
    assert!(socket.upgrade && out.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
}

#[test]
fn response_heads_are_read_as_strictly() {
    let read = |head: &str, to_head| response(head.as_bytes(), to_head);
    let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false).expect("valid");
    assert!(plain.plain && plain.reusable && plain.body == Body::Length(5));
    assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true).expect("valid").body, Body::Done);
    assert_eq!(read("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", false).expect("valid").body, Body::Done);
    let endless = read("HTTP/1.1 200 OK\r\n\r\n", false).expect("valid");
    assert!(endless.body == Body::UntilClose && !endless.reusable);
    let closing = read("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", false).expect("valid");
    assert!(!closing.plain && !closing.reusable);
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        assert_eq!(read(bad, false), None, "{bad:?}");
    }
}

#[test]
fn response_heads_are_written_anew_without_hop_by_hop_fields() {
    let head = "HTTP/1.0 200 Fine\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\n";
    let mut out = Vec::new();
    render_response(head.as_bytes(), Persist::Close, false, &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\nConnection: close\r\n\r\n"
    );
}
