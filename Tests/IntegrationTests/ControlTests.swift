import Foundation
import TestSupport
import XCTest

/// The commands, as somebody runs them who has just installed it.
final class ControlTests: IntegrationTestCase {
  @discardableResult
  private func bpftune(_ line: String, status expected: Int32 = 0, line number: UInt = #line)
    async throws -> String
  {
    let command = try Command(
      [Products.path("bpftune")] + line.split(separator: " ").map(String.init))
    let status = try await command.wait()
    XCTAssertEqual(status, expected, "\(line): \(command.output)", line: number)
    XCTAssertFalse(command.output.contains("\u{1b}"), "no colour but on a terminal", line: number)
    return command.output
  }

  /// A list in a reply as JSON.
  private func list(_ key: String, of line: String) async throws -> [[String: Any]] {
    let reply = try await json(line)
    return try XCTUnwrap(reply[key] as? [[String: Any]], "\(key) of \(line)")
  }

  private func json(_ line: String) async throws -> [String: Any] {
    let text = try await bpftune(line + " --json")
    let reply = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
    let object = try XCTUnwrap(reply, text)
    XCTAssertEqual(object["schema"] as? Int, 1, line)
    return object
  }

  func testWithoutADaemon() async throws {
    guard RawClient() == nil else { throw XCTSkip("another daemon runs in this place") }
    for command in ["status", "tunables", "watch", "history", "enable tcp-buffer", "-q status"] {
      let output = try await bpftune(command, status: 69)
      XCTAssertTrue(output.contains("no daemon runs"), output)
      XCTAssertTrue(output.contains("systemctl start bpftune"), output)
    }
    let directory = NSTemporaryDirectory() + "bt-none-\(getpid())"
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let nothing = try await bpftune("rollback --state-dir \(directory)")
    XCTAssertEqual(nothing, "nothing to put back")
    let unknown = try await bpftune("rollback tcp_wmem --state-dir \(directory)", status: 1)
    XCTAssertTrue(unknown.contains("left no tcp_wmem changed"), unknown)
  }

  // MARK: Seeing

  func testTheStoryOfAChange() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    try await assertTunes(path)
    let left = try XCTUnwrap(path.left.name)
    let tuned = try await path.left.sysctl(Self.wmem)

    let status = try await json("status")
    XCTAssertEqual(status["mode"] as? String, "tuning")
    XCTAssertEqual(status["pid"] as? Int, Int(daemon.command.pid))
    let recent = try XCTUnwrap(status["recent"] as? [[String: Any]])
    XCTAssertTrue(recent.contains { $0["tunable"] as? String == Self.wmem })
    let text = try await bpftune("status")
    XCTAssertTrue(text.contains("tcp-buffer  "), text)
    XCTAssertTrue(text.contains("-> \(tuned)"), text)

    let tuners = try await list("tuners", of: "tuners")
    XCTAssertEqual(tuners.map { $0["name"] as? String }, ["tcp-buffer"])
    XCTAssertGreaterThan(try XCTUnwrap(tuners[0]["changes"] as? Int), 0)

    let here = try await bpftune("tunables --netns \(left)")
    let row = try XCTUnwrap(here.split(separator: "\n").first { $0.hasPrefix(Self.wmem) })
    for word in [left, tuned, "4096 16384 65536", "bpftune", "tcp-buffer"] {
      XCTAssertTrue(row.contains(word), "\(word) in \(row)")
    }
    let byInode = try await bpftune("tunables --netns \(path.left.inode)")
    XCTAssertEqual(byInode, here)
    let all = try await bpftune("tunables")
    XCTAssertTrue(all.contains("init"), all)
    XCTAssertTrue(all.contains(left), "what was set elsewhere is there too: \(all)")

    let history = try await bpftune(
      "history --tuner tcp-buffer --tunable \(Self.wmem) --netns \(left)")
    XCTAssertTrue(history.contains("change"), history)
    XCTAssertTrue(history.contains("round trip"), "with the evidence: \(history)")
    XCTAssertTrue(history.contains("4096 16384 65536 ->"), "from the first on: \(history)")
    let short = try await bpftune("history --tunable tcp_wmem --netns \(left)")
    XCTAssertTrue(short.contains("4096 16384 65536 ->"), short)
    let none = try await bpftune("history --tuner neigh")
    XCTAssertEqual(none, "nothing is recorded that fits")
    let future = try await bpftune("history --since 2100-01-01")
    XCTAssertEqual(future, "nothing is recorded that fits")
    let records = try await list("records", of: "history --since 5m")
    XCTAssertGreaterThan(records.count, 0)

    let story = try await bpftune("explain tcp_wmem --netns \(left)")
    for words in [
      "is \(tuned)", "before that it was 4096 16384 65536", "round trip", "To undo it:",
      "bpftune rollback \(Self.wmem) --netns \(left)",
    ] {
      XCTAssertTrue(story.contains(words), "\(words) in \(story)")
    }
    let everywhere = try await bpftune("explain \(Self.wmem)")
    XCTAssertTrue(everywhere.contains("in init is"), everywhere)
    XCTAssertTrue(everywhere.contains("in \(left) is \(tuned)"), everywhere)
    let noSuch = try await bpftune("explain net.ipv4.nosuch", status: 1)
    XCTAssertTrue(noSuch.contains("bpftune tunables"), noSuch)

    let simulation = try await bpftune("simulate")
    XCTAssertTrue(simulation.contains("\(tuned) -> 4096 16384 65536"), simulation)
    let verified = try await bpftune("verify")
    XCTAssertTrue(verified.contains("hold their value"), verified)

    // The C program's users.
    for (query, words) in [
      ("help", "jtunables"), ("summary", "4096 16384 65536"), ("tuners", "tcp-buffer"),
      ("tunables", Self.wmem), ("jtunables", "\"schema\" : 1"), ("status", tuned),
      ("jstatus", "\"current\" : \"\(tuned)\""), ("rollback", "4096 16384 65536"),
    ] {
      let answer = try await bpftune("-q \(query)")
      XCTAssertTrue(answer.contains(words), "-q \(query): \(answer)")
    }
    let long = try await bpftune("--query summary")
    XCTAssertTrue(long.contains(tuned), long)

    // Behind the daemon's back, where even its own watch does not look: the
    // value differs, and verify says so.
    try await path.left.set(Self.wmem, "4096 16384 777216")
    try await eventually("the owner to change") {
      try await self.bpftune("tunables --netns \(left)").contains("administrator")
    }
    let theirs = try await bpftune("explain tcp_wmem --netns \(left)")
    XCTAssertTrue(theirs.contains("(sysctl) set \(Self.wmem)"), theirs)
    XCTAssertTrue(theirs.contains("bpftune enable tcp-buffer --netns \(left)"), theirs)
    try await daemon.stop()
    await path.close()
  }

  // MARK: Acting

  func testDisableEnableRollback() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let left = try XCTUnwrap(path.left.name)
    try await bpftune("disable tcp-buffer --netns \(left)")
    let server = try await Iperf.server(in: path.right)
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1)
    let untouched = try await path.left.maximum(Self.wmem)
    XCTAssertEqual(untouched, Self.sendLimit)
    let tuners = try await bpftune("tuners")
    XCTAssertTrue(tuners.contains("partly"), tuners)
    XCTAssertTrue(tuners.contains("is disabled in \(left): turned off by bpftune disable"), tuners)
    let wrongTuner = try await bpftune("disable neigh", status: 1)
    XCTAssertTrue(wrongTuner.contains("these do: tcp-buffer"), wrongTuner)

    // No restart.
    try await bpftune("enable tcp-buffer --netns \(left)")
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1.5)
    let tuned = try await path.left.maximum(Self.wmem)
    XCTAssertGreaterThan(tuned, Self.sendLimit)

    let unknown = try await bpftune("rollback net.ipv4.tcp_moderate_rcvbuf", status: 1)
    XCTAssertTrue(unknown.contains("holds no net.ipv4.tcp_moderate_rcvbuf"), unknown)
    let undone = try await bpftune("rollback tcp_wmem --netns \(left)")
    XCTAssertTrue(undone.contains("-> 4096 16384 65536"), undone)
    let restored = try await path.left.maximum(Self.wmem)
    XCTAssertEqual(restored, Self.sendLimit)
    try await bpftune("rollback")  // what was changed on the right
    let nothing = try await bpftune("rollback")
    XCTAssertEqual(nothing, "nothing to put back")

    // After an administrator's write it is off, and a command lets it go on.
    try await path.left.set(Self.wmem, "4096 16384 80000")
    try await eventually("the tuner to be disabled") { daemon.isDisabled(in: path.left) }
    try await bpftune("enable tcp-buffer")
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1.5)
    let again = try await path.left.maximum(Self.wmem)
    XCTAssertGreaterThan(again, 80000)
    let story = try await bpftune("history --netns \(left)")
    for kind in ["change", "rollback", "administrator", "note"] {
      XCTAssertTrue(story.contains(kind), "\(kind) in \(story)")
    }
    server.signal(SIGTERM)
    try await daemon.stop()
    await path.close()
  }

  /// What dry run has found goes into a file that sysctl(8) takes.
  func testRecommendations() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer", "--dry-run")
    let server = try await Iperf.server(in: path.right)
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1)
    server.signal(SIGTERM)
    let findings = try await list("findings", of: "recommend")
    let finding = try XCTUnwrap(findings.first { $0["tunable"] as? String == Self.wmem })
    XCTAssertEqual(finding["kind"] as? String, "advised")
    let value = try XCTUnwrap(finding["value"] as? String)
    let file = try await bpftune("recommend --format sysctl.d")
    let left = try XCTUnwrap(path.left.name)
    XCTAssertTrue(file.contains("#   \(left): \(Self.wmem) = \(value)"), file)
    let simulated = try await bpftune("simulate")
    XCTAssertTrue(simulated.contains("65536 -> \(value)"), simulated)
    try await daemon.stop()
    await path.close()
  }

  // MARK: On a terminal

  func testStatusAndWatchOnATerminal() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let lines = try Command([Products.path("bpftune"), "watch"])
    let json = try Command([Products.path("bpftune"), "watch", "--json"])
    try await json.line(containing: "\"schema\"")
    let live = try Terminal([Products.path("bpftune"), "watch"])
    try await eventually("the live view") { live.output.contains("q ends") }
    XCTAssertTrue(live.output.contains("\u{1b}[?1049h"), "on a screen of its own")
    try await assertTunes(path, seconds: 1)
    try await lines.line(containing: "change: \(Self.wmem)")
    try await json.line(containing: "\"kind\":\"change\"")
    try await eventually("the change in the live view") {
      live.output.contains("\(Self.wmem)")
    }
    live.type("q")
    let ended = try await live.wait()
    XCTAssertEqual(ended, 0)
    XCTAssertTrue(live.output.hasSuffix("\u{1b}[?25h\u{1b}[?1049l"), "the screen is put back")

    let status = try Terminal([Products.path("bpftune"), "status"])
    let first = try await status.wait()
    XCTAssertEqual(first, 0)
    try await eventually("the output") { status.output.contains(Self.wmem) }
    XCTAssertTrue(status.output.contains("\u{1b}[1mTUNER"), status.output)
    let plain = try Terminal([Products.path("bpftune"), "status"], environment: ["NO_COLOR": "1"])
    _ = try await plain.wait()
    try await eventually("the output") { plain.output.contains(Self.wmem) }
    XCTAssertFalse(plain.output.contains("\u{1b}"), plain.output)

    try await daemon.stop()
    let status1 = try await lines.wait()
    XCTAssertEqual(status1, 1, "a stream says that the daemon has ended")
    XCTAssertTrue(lines.output.contains("the daemon has ended"), lines.output)
    json.signal(SIGTERM)
    await path.close()
  }
}
