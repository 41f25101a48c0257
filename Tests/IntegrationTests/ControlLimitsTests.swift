import Foundation
import TestSupport
import XCTest

/// Runs `body` on a thread of its own, since it waits for sockets.
private func aside<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
  await withCheckedContinuation { continuation in
    Thread.detachNewThread { continuation.resume(returning: body()) }
  }
}

/// The control socket in the hands of those who mean no good, while the daemon
/// tunes: it goes on tuning, keeps its limits, and answers others.
final class ControlLimitsTests: IntegrationTestCase {
  private func assertAnswers(_ line: UInt = #line) {
    let answer = RawClient.ask("/v1/status") ?? ""
    XCTAssertTrue(answer.hasPrefix("HTTP/1.0 200"), answer, line: line)
    XCTAssertTrue(answer.contains("\"schema\":1"), line: line)
  }

  func testGarbageWhileTuning() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let descriptors = daemon.descriptors
    let memory = daemon.anonymousMemory
    let garbage = Task.detached {
      await aside {
        for round in 0..<1000 {
          guard let client = RawClient() else { continue }
          switch round % 10 {
          case 0: client.send((0..<Int.random(in: 1...4000)).map { _ in UInt8.random(in: 0...255) })
          case 1: client.send("GET /v1/status HTTP/1.1\r\nHost: x")  // half a request
          case 2: client.send("GET /\(String(repeating: "%zz", count: 100)) HTTP/1.1\r\n\r\n")
          case 3: client.send("POST /v1/tuners/../../etc/passwd/enable HTTP/1.1\r\n\r\n")
          case 4: client.send("GET /v1/history?limit=-1&since=%00 HTTP/1.1\r\n\r\n")
          case 5:
            client.send("GET /v1/explain?tunable=\(UInt64.random(in: 0 ... .max)) HTTP/9.9\r\n\r\n")
          case 6:
            client.send(
              "POST /v1/rollback HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n")
          case 7: client.send("PUT /v1/status HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
          case 8: client.send("GET /v1/tunables?netns=..%2f..%2fproc&after=x HTTP/1.1\r\n\r\n")
          default: client.send(String(repeating: "GET /v1/status HTTP/1.1\r\n\r\n", count: 20))
          }
        }
      }
    }
    try await assertTunes(path)
    await garbage.value
    assertAnswers()
    XCTAssertTrue(daemon.command.isRunning)
    try await eventually("the connections to go") { daemon.descriptors <= descriptors }
    XCTAssertLessThan(daemon.anonymousMemory, memory + 4096, "KiB, in a debug build")
    XCTAssertFalse(daemon.lines.contains { $0.contains("events lost") })
    try await daemon.stop()
    await path.close()
  }

  /// 200 clients at the same time, while others hold half a request or do not
  /// read what they asked for.
  func testLongCrowdWhileTuning() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let half = (0..<20).compactMap { _ in RawClient() }
    for client in half { client.send("GET /v1/sta") }
    let slow = (0..<20).compactMap { _ in RawClient() }
    for client in slow {
      client.send("GET /metrics HTTP/1.1\r\n\r\nGET /v1/status HTTP/1.1\r\n\r\n")
    }
    XCTAssertEqual(half.count + slow.count, 40)
    let crowd = Task.detached {
      await withTaskGroup(of: Bool.self) { group in
        for _ in 0..<200 {
          group.addTask {
            await aside { RawClient.ask("/v1/tuners")?.hasPrefix("HTTP/1.0 200") ?? false }
          }
        }
        return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
      }
    }
    try await assertTunes(path)
    let answered = await crowd.value
    XCTAssertEqual(answered, 200)
    // Those who kept still are let go of, without an answer.
    let answers = await aside { half.map { $0.receive() } }
    XCTAssertEqual(answers, half.map { _ in "" })
    assertAnswers()
    XCTAssertFalse(daemon.lines.contains { $0.contains("events lost") })
    try await daemon.stop()
    await path.close()
  }

  func testLimits() async throws {
    let daemon = try await Daemon("--allow", "tcp-buffer")
    // Too large.
    let large = try XCTUnwrap(RawClient())
    await aside {
      large.send("GET /v1/status HTTP/1.1\r\nX: \(String(repeating: "x", count: 100_000))")
    }
    let refusal = large.receive()
    XCTAssertTrue(refusal.hasPrefix("HTTP/1.1 413"), refusal)
    // Too many: the last ones are turned away, and places become free again.
    var crowd = (0..<300).compactMap { _ in RawClient() }
    let last = try XCTUnwrap(crowd.last)
    XCTAssertTrue(last.receive().hasPrefix("HTTP/1.1 503"))
    crowd = []
    try await eventually("a place") {
      RawClient.ask("/v1/status")?.hasPrefix("HTTP/1.0 200") ?? false
    }
    // Too many who watch.
    let watchers = (0..<16).compactMap { _ in RawClient() }
    for client in watchers {
      client.send("GET /v1/watch HTTP/1.1\r\n\r\n")
      XCTAssertTrue(client.receive(most: 17).hasPrefix("HTTP/1.1 200"))
    }
    let one = RawClient.ask("/v1/watch") ?? ""
    XCTAssertTrue(one.hasPrefix("HTTP/1.0 503"), one)
    // What may not be done.
    for (target, method, status) in [
      ("/v1/rollback", "GET", 405), ("/v1/status", "POST", 405), ("/nosuch", "GET", 404),
      ("/v1/status?x=1", "GET", 400), ("/v1/history?limit=9999", "GET", 400),
      ("/v1/tuners/nosuch/enable", "POST", 404), ("/v1/tunables?netns=nosuch", "GET", 404),
    ] {
      let answer = RawClient.ask(target, method: method) ?? ""
      XCTAssertTrue(answer.hasPrefix("HTTP/1.0 \(status)"), "\(method) \(target): \(answer)")
      XCTAssertTrue(answer.contains("\"error\":"), answer)
    }
    // Who sends a request and no more gets an answer.
    let short = try XCTUnwrap(RawClient())
    short.send("GET /v1 HTTP/1.0\r\n\r\n")
    short.finish()
    XCTAssertTrue(short.receive().contains("/v1/status"))
    try await daemon.stop()
    XCTAssertEqual(access(RawClient.path, F_OK), -1, "the socket goes with the daemon")
  }

  // MARK: Who may

  /// curl as another user, with a group or without.
  private func curl(_ target: String, post: Bool = false, group: String? = nil) async throws
    -> Command
  {
    let command = try Command(
      ["setpriv", "--reuid", "65534", "--regid", "65534"]
        + (group.map { ["--groups", $0] } ?? ["--clear-groups"])
        + ["curl", "-sS", "--max-time", "10", "--unix-socket", RawClient.path]
        + (post ? ["-X", "POST"] : []) + ["http://bpftune\(target)"])
    try await command.wait()
    return command
  }

  func testPermissions() async throws {
    let others = try Command(["getent", "group", "bpftune"])
    let isThere = try await others.wait() == 0
    if !isThere { try await execute("groupadd", "--system", "bpftune") }
    do {
      let group = try await execute("getent", "group", "bpftune").split(separator: ":")[2]
      let daemon = try await Daemon("--allow", "tcp-buffer")
      let stranger = try await curl("/v1/status")
      XCTAssertFalse(stranger.output.contains("schema"), stranger.output)
      let member = try await curl("/v1/status", group: String(group))
      XCTAssertTrue(member.output.contains("\"schema\":1"), member.output)
      let change = try await curl("/v1/tuners/tcp-buffer/disable", post: true, group: String(group))
      XCTAssertTrue(change.output.contains("only root may change"), change.output)
      // Even where the file lets everybody in, the daemon asks the kernel who it is.
      chmod(RawClient.path, 0o666)
      let again = try await curl("/v1/status")
      XCTAssertTrue(again.output.contains("only root and members of group bpftune"), again.output)
      let metrics = try await curl("/metrics")
      XCTAssertFalse(metrics.output.contains("bpftune_changes"), metrics.output)
      let root = try await execute(
        "curl", "-sS", "-X", "POST", "--unix-socket", RawClient.path,
        "http://bpftune/v1/tuners/tcp-buffer/disable")
      XCTAssertTrue(root.contains("\"enabled\":false"), root)
      try await daemon.stop()
    } catch {
      if !isThere { try await execute("groupdel", "bpftune") }
      throw error
    }
    if !isThere { try await execute("groupdel", "bpftune") }
  }
}
