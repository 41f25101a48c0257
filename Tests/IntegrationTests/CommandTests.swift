import Foundation
import TestSupport
import XCTest

/// The command line, and what the daemon does beside tuning.
final class CommandTests: IntegrationTestCase {
  private func bpftune(_ arguments: String..., prefix: [String] = []) async throws
    -> (status: Int32, output: String)
  {
    let command = try Command(prefix + [Products.path("bpftune")] + arguments)
    return (try await command.wait(), command.output)
  }

  // MARK: Dry run and roll back

  func testDryRunChangesNothing() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    try await path.right.set("net.ipv4.tcp_moderate_rcvbuf", "0")
    let server = try await Iperf.server(in: path.right)
    let before = try await execute("sysctl", "-a", "--pattern", "^net\\.", netns: path.left.name)
    let daemon = try await Daemon("--dry-run")
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 2)
    let after = try await execute("sysctl", "-a", "--pattern", "^net\\.", netns: path.left.name)
    let moderation = try await path.right.sysctl("net.ipv4.tcp_moderate_rcvbuf")
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(before, after)
    XCTAssertEqual(moderation, "0")
    let advice = daemon.lines.filter { $0.contains("advice: \(Self.wmem) 4096 16384 65536 -> ") }
    XCTAssertEqual(advice.count, 1, "given once, not with every event")
  }

  func testRollbackRestores() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon("--rollback")
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1.5)
    let tuned = try await path.left.sysctl(Self.wmem)
    let status = try await daemon.stop()
    let restored = try await path.left.sysctl(Self.wmem)
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(status, 0)
    XCTAssertNotEqual(tuned, "4096 16384 65536")
    XCTAssertEqual(restored, "4096 16384 65536")
    XCTAssertTrue(daemon.lines.contains { $0.contains("rolled back") })
  }

  // MARK: Start and stop

  func testStopsQuicklyWithASummary() async throws {
    for signal in [SIGTERM, SIGINT] {
      let daemon = try await Daemon()
      let start = ContinuousClock.now
      daemon.command.signal(signal)
      let status = try await daemon.command.wait(upTo: 10)
      XCTAssertEqual(status, 0)
      XCTAssertLessThan(start.duration(to: .now), .seconds(2))
      XCTAssertTrue(daemon.lines.last?.contains("nothing was changed") ?? false)
    }
  }

  func testASecondInstanceIsRefused() async throws {
    let daemon = try await Daemon()
    let second = try await bpftune("--foreground")
    try await daemon.stop()
    XCTAssertEqual(second.status, 1)
    XCTAssertTrue(second.output.contains("already running with pid \(daemon.command.pid)"))
  }

  func testKillLeavesNoProgramBehind() async throws {
    let programs = BPFPrograms.ids()
    let links = BPFPrograms.links()
    let daemon = try await Daemon()
    XCTAssertGreaterThanOrEqual(BPFPrograms.ids().subtracting(programs).count, 5)
    XCTAssertGreaterThanOrEqual(BPFPrograms.links().subtracting(links).count, 5)
    daemon.command.signal(SIGKILL)
    _ = try await daemon.command.wait()
    // The kernel frees them after a grace period.
    try await eventually(upTo: 10, "the programs to go") {
      BPFPrograms.ids().subtracting(programs).isEmpty
        && BPFPrograms.links().subtracting(links).isEmpty
    }
  }

  func testGoesIntoTheBackground() async throws {
    let start = try await bpftune("-D", "--log", "syslog")
    XCTAssertEqual(start.status, 0, start.output)
    let second = try await bpftune("--foreground")
    XCTAssertTrue(second.output.contains("already running with pid"), second.output)
    let match = try XCTUnwrap(second.output.firstMatch(of: /pid (\d+)/))
    let pid = try XCTUnwrap(Int32(match.1))
    kill(pid, SIGTERM)
    try await eventually("the daemon to end") { kill(pid, 0) != 0 }
  }

  // MARK: Logging

  func testJournalLinesStartWithAPriority() async throws {
    let command = try Command([Products.path("bpftune"), "--log", "journal"])
    try await command.line(containing: "<6>bpftune ")
    command.signal(SIGTERM)
    try await command.wait()
  }

  // MARK: check

  func testCheck() async throws {
    let table = try await bpftune("check")
    XCTAssertEqual(table.status, 0, table.output)
    XCTAssertTrue(table.output.contains("bpftune works"))
    let json = try await bpftune("check", "--json")
    let report = try XCTUnwrap(
      try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any])
    XCTAssertEqual(report["works"] as? Bool, true)
    XCTAssertGreaterThanOrEqual((report["signals"] as? [Any])?.count ?? 0, 7)
    let support = try await bpftune("-S")
    XCTAssertEqual(support.output, table.output)
  }

  func testCheckShowsWhyAHookWasRefused() async throws {
    let check = try await bpftune(
      "--allow", "tcp-buffer", "check", "--hooks", "tracepoint,sock_ops,iterator,request,poll")
    XCTAssertEqual(check.status, 0, check.output)
    XCTAssertTrue(check.output.contains("refused: cgroup/sysctl: left out by --hooks"))
    XCTAssertTrue(check.output.contains("not by the first choice of hook"))
    let part = try await bpftune("check", "--hooks", "iterator,poll")
    XCTAssertEqual(part.status, 1, part.output)
    XCTAssertTrue(part.output.contains("works in part"))
    XCTAssertTrue(part.output.contains("refused: tp_btf/neigh_create: left out by --hooks"))
  }

  // MARK: Bad input

  func testBadOptionsSayWhatIsAllowed() async throws {
    let cases: [(arguments: [String], text: String)] = [
      (["--no-such"], "Unknown option '--no-such'"),
      (["--allow", "nosuch"], "tcp-buffer"),
      (["-a", "nosuch_tuner.so"], "nosuch_tuner.so"),
      (["--learning-rate", "5"], "'0', '1', '2', '3' or '4'"),
      (["--learning-rate", "x"], "'0', '1', '2', '3' or '4'"),
      (["--learning-rate", "-1"], "learning-rate"),
      (["--log", "nowhere"], "syslog"),
      (["--hooks", "nonsense"], "sock_ops"),
      (["-q", "nosuch"], "jtunables"),
      (["-p", "8080"], "--metrics"),
      (["-L"], "--legacy is not needed"),
    ]
    for (arguments, text) in cases {
      let command = try Command([Products.path("bpftune")] + arguments)
      let status = try await command.wait()
      XCTAssertEqual(status, 64, "\(arguments): \(command.output)")
      XCTAssertTrue(command.output.contains(text), "\(arguments): \(command.output)")
    }
  }

  func testTheCProgramsOptionsAreTaken() async throws {
    let version = try await bpftune("-V")
    XCTAssertEqual(version.output, "0.1.0")
    let command = try Command(
      [Products.path("bpftune"), "-dsR", "-a", "tcp_buffer_tuner.so", "-r", "2"])
    try await command.line(containing: "with tcp-buffer")
    command.signal(SIGTERM)
    let status = try await command.wait()
    XCTAssertEqual(status, 0)
  }

  func testWithoutPrivilege() async throws {
    // The build folder may be closed to others, so privileges go, not the user.
    for arguments in [["--foreground"], ["check"]] {
      let command = try Command(
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", Products.path("bpftune")]
          + arguments)
      let status = try await command.wait()
      XCTAssertEqual(status, 77, command.output)
      XCTAssertEqual(command.lines.count, 1, command.output)
      XCTAssertTrue(command.output.contains("needs root"), command.output)
    }
  }

  func testBadCgroupDirectory() async throws {
    for (directory, text) in [("/nonexistent", "No such file"), ("/tmp", "cgroup.controllers")] {
      let result = try await bpftune("--foreground", "--cgroup", directory)
      XCTAssertEqual(result.status, 1)
      XCTAssertTrue(result.output.contains(directory), result.output)
      XCTAssertTrue(result.output.contains(text), result.output)
      XCTAssertTrue(result.output.contains("--cgroup"), result.output)
    }
  }
}
