import Foundation
import Kernel
import TestSupport
import XCTest

/// tcp-conn with real connections, over paths that lose, mark or do neither.
class TCPConnTestCase: IntegrationTestCase {
  static let allowed = "net.ipv4.tcp_allowed_congestion_control"
  static let algorithm = "net.ipv4.tcp_congestion_control"
  /// 40 ms, 50 Mbit/s and a queue for 80 ms; in a guest 100 ms and 10 Mbit/s, and
  /// for longer.
  static let rate = Guest.isHere ? 10 : 50
  static let delay = Guest.isHere ? 50.0 : 20
  static let longer = Guest.isHere ? 4.0 : 1
  static let clean = ["--rate-mbit", "\(rate)", "--queue-bytes", "\(rate * 10_000)"]
  static let lossy = clean + ["--loss-percent", "2", "--seed", "7"]

  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    // The list of allowed algorithms is one for all namespaces.
    saved = try await SavedSysctls(Self.allowed)
  }

  override func tearDown() async throws { await saved?.restore() }

  /// A path whose left end has a loss-based default that every kernel allows.
  func path(_ options: [String], delay: Double = delay) async throws -> Path {
    let path = try await Path(delay: delay, options: options)
    try await path.setLargeBuffers()
    try await path.left.set(Self.algorithm, "reno")
    return path
  }

  func daemon(_ options: String...) async throws -> Daemon {
    switch options.first {
    case let option?: try await Daemon("--allow", "tcp-conn", "--rollback", option)
    case nil: try await Daemon("--allow", "tcp-conn", "--rollback")
    }
  }

  func run(
    _ path: Path, _ seconds: Double, to address: String = Path.rightAddress.v4,
    options: [String] = []
  ) async throws -> Iperf.Result {
    // After a run over a lossy path the server may be busy with its end.
    for _ in 0..<20 {
      if let result = try? await Iperf.run(
        from: path.left, to: address, seconds: seconds * Self.longer, options: options)
      {
        return result
      }
      try await Task.sleep(for: .milliseconds(300))
    }
    return try await Iperf.run(
      from: path.left, to: address, seconds: seconds * Self.longer, options: options)
  }

  /// Gives the left end an allowed default that is not reno.
  func setAnotherDefault(_ path: Path) async throws {
    let allowed = try await path.left.sysctl(Self.allowed).split(separator: " ")
    let other = try XCTUnwrap(allowed.first { $0 != "reno" })
    try await path.left.set(Self.algorithm, "\(other)")
  }
}

final class TCPConnTests: TCPConnTestCase {
  func testLossyPathGetsWhatIsBetter() async throws {
    let allowedBefore = try await TestNamespace.initial.sysctl(Self.allowed)
    let path = try await path(Self.lossy)
    let inode = path.left.inode
    let server = try await Iperf.server(in: path.right)
    let advisor = try await daemon("--dry-run")
    let without = try await run(path, 2)
    try await advisor.stop()
    let allowedInDryRun = try await TestNamespace.initial.sysctl(Self.allowed)

    let daemon = try await daemon()
    let first = try await run(path, 2.5)
    let second = try await run(path, 2)
    let known = try await ConnectionPath.all(from: path.left)
    let table = try await execute(Products.path("bpftune"), "paths")
    let defaultAfter = try await path.left.sysctl(Self.algorithm)
    let allowedMeanwhile = try await TestNamespace.initial.sysctl(Self.allowed)
    let status = try await daemon.stop()
    let allowedAfter = try await TestNamespace.initial.sysctl(Self.allowed)
    server.signal(SIGTERM)
    await path.close()

    XCTAssertTrue(
      advisor.lines.contains { $0.contains("advice: to \(Path.rightAddress.v4): trying bbr") })
    XCTAssertFalse(advisor.lines.contains { $0.contains(": reno -> bbr: ") })
    XCTAssertEqual(allowedInDryRun, allowedBefore)
    XCTAssertEqual(status, 0)
    XCTAssertEqual(second.algorithm, "bbr")
    XCTAssertGreaterThan(second.rate, without.rate * 3)
    XCTAssertGreaterThan(first.rate, without.rate, "it turned lossy, and was moved")
    XCTAssertEqual(defaultAfter, "reno", "the default is not the tuner's to change")
    XCTAssertTrue(allowedMeanwhile.contains("bbr"))
    XCTAssertEqual(allowedAfter, allowedBefore, "put back on exit")

    let line = try XCTUnwrap(known.first)
    XCTAssertEqual(line.path, Path.rightAddress.v4)
    XCTAssertEqual([line.original, line.chosen, line.reason], ["reno", "bbr", "loss"])
    XCTAssertEqual(line.switches, 1)
    XCTAssertGreaterThan(line.retransmitted * 100, line.segments, "above 1 %")
    XCTAssertTrue(
      table.contains("\(Path.rightAddress.v4) (netns \(inode)): bbr: segments are lost"))
    XCTAssertTrue(
      daemon.lines.contains { $0.contains("to \(Path.rightAddress.v4): reno -> bbr: ") })
  }

  func testCleanPathIsLeftAlone() async throws {
    // Less than the path carries, so that no queue stands; and what a sender that
    // stood still has to catch up with finds room, so that nothing is lost.
    let path = try await path(["--rate-mbit", "\(Self.rate)", "--queue-bytes", "4000000"])
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    let run = try await run(path, 2, options: ["-b", "\(Self.rate / 2)M", "-l", "8K"])
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertEqual(run.algorithm, "reno")
    let line = try XCTUnwrap(known.first, "it is measured all the same")
    XCTAssertEqual(line.chosen, "reno")
    XCTAssertNil(line.trial)
    XCTAssertEqual(line.switches, 0)
    XCTAssertGreaterThan(line.segments, 500)
    XCTAssertEqual(daemon.lines.filter { $0.contains("trying") }, [])
  }

  func testLocalNetworkIsLeftAlone() async throws {
    // An emulated processor makes any path longer than that.
    try XCTSkipIf(Guest.isHere, "no round trip is below a millisecond in an emulated guest")
    let path = try await path(["--loss-percent", "1"], delay: 0.1)
    let server = try await Iperf.server(in: path.right)
    let local = try await Iperf.server(in: path.left, port: 5202)
    let daemon = try await daemon()
    let overPath = try await run(path, 1)
    let loopback = try await Iperf.run(
      from: path.left, to: "127.0.0.1", seconds: 1, port: 5202)
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    for server in [server, local] { server.signal(SIGTERM) }
    await path.close()

    XCTAssertEqual([overPath.algorithm, loopback.algorithm], ["reno", "reno"])
    XCTAssertEqual(known.filter { $0.switches > 0 || $0.trial != nil }.count, 0)
    XCTAssertFalse(known.contains { $0.path.hasPrefix("127.") })
  }

  func testEachPeerIsAPath() async throws {
    let path = try await path(Self.clean)
    let other = "10.98.1.3"
    try await execute("ip", "addr", "add", "\(other)/24", "dev", "path0", netns: path.right.name)
    // Another network, behind a gateway: its peers are one path.
    for address in ["10.77.5.1", "10.77.5.2"] {
      try await execute("ip", "addr", "add", "\(address)/32", "dev", "lo", netns: path.right.name)
    }
    try await execute(
      "ip", "route", "add", "10.77.0.0/16", "via", Path.rightAddress.v4, netns: path.left.name)
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    let addresses = [
      Path.rightAddress.v4, other, "::ffff:\(other)", Path.rightAddress.v6, "10.77.5.1",
      "10.77.5.2",
    ]
    for address in addresses {
      // Bash looks the address up, and connects by an IPv6 socket where it is one.
      try await execute("bash", "-c", "exec 3<>/dev/tcp/\(address)/5201", netns: path.left.name)
    }
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertEqual(
      Set(known.map(\.path)),
      [Path.rightAddress.v4, other, Path.rightAddress.v6, "10.77.5.0/24"])
    func connections(_ path: String) -> Int? { known.first { $0.path == path }?.connections }
    XCTAssertEqual(connections(Path.rightAddress.v4), 1)
    XCTAssertEqual(connections(other), 2, "an IPv4 peer on an IPv6 socket is on the IPv4 path")
    XCTAssertEqual(connections("10.77.5.0/24"), 2)
  }

  func testAdministratorDisables() async throws {
    let path = try await path(Self.lossy)
    try await setAnotherDefault(path)
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    try await path.left.set(Self.algorithm, "reno")
    try await eventually("the administrator to be heard") { daemon.isDisabled(in: path.left) }
    let run = try await run(path, 2)
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertEqual(run.algorithm, "reno")
    XCTAssertTrue(known.isEmpty)
    XCTAssertEqual(daemon.lines.filter { $0.contains("trying") }, [])
  }

  func testApplicationsChoiceIsLeftAlone() async throws {
    let path = try await path(Self.lossy)
    try await setAnotherDefault(path)
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    let run = try await run(path, 2, options: ["-C", "reno"])
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertEqual(run.algorithm, "reno")
    XCTAssertEqual(known.first?.switches ?? 0, 0)
    XCTAssertFalse(known.contains { $0.algorithms.contains { $0.algorithm == "reno" } })
    XCTAssertEqual(daemon.lines.filter { $0.contains("trying") }, [])
  }
}

/// What takes longer.
final class TCPConnLongTests: TCPConnTestCase {
  /// dctcp is wanted where packets are marked, and nowhere else.
  func testDCTCPOnlyWhereMarksAreSeen() async throws {
    for marks in [false, true] {
      let options =
        marks
        ? Self.clean + ["--ecn-threshold-bytes", "20000"]
        : Self.lossy
      let path = try await path(options, delay: 10)
      for end in [path.left, path.right] { try await end.set("net.ipv4.tcp_ecn", "1") }
      let server = try await Iperf.server(in: path.right)
      let daemon = try await daemon()
      _ = try await run(path, 5)
      let known = try await ConnectionPath.all(from: path.left)
      try await daemon.stop()
      server.signal(SIGTERM)
      await path.close()

      // Without the module it is refused, but asked for all the same.
      let wanted = daemon.lines.contains { $0.contains("dctcp") }
      XCTAssertEqual(wanted, marks, daemon.lines.joined(separator: "\n"))
      let line = try XCTUnwrap(known.first)
      XCTAssertEqual(line.marked > 0, marks)
      if !marks { XCTAssertNotEqual(line.chosen, "dctcp") }
    }
  }

  func testLongConnectionsOlderThanTheDaemon() async throws {
    try XCTSkipIf(
      KernelVersion.running < KernelVersion(6, 12),
      "before Linux 6.12 an iterator cannot ask for callbacks")
    let path = try await path(Self.lossy)
    let server = try await Iperf.server(in: path.right)
    let seconds = Guest.isHere ? 14.0 : 6
    async let running = Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: seconds)
    try await eventually("the connection") {
      try await execute("ss", "-tnH", "state", "established", netns: path.left.name)
        .contains(Path.rightAddress.v4)
    }
    let daemon = try await daemon()
    try await eventually("the connection to be moved") {
      try await execute("ss", "-tinH", "state", "established", netns: path.left.name)
        .contains(" bbr ")
    }
    _ = try await running
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertTrue(
      daemon.lines.contains { $0.contains("to \(Path.rightAddress.v4): trying bbr") })
  }

  /// Before Linux 6.12 an older connection is looked at every five seconds, and
  /// gets what newer ones have found out.
  func testOlderConnectionsAreLookedAt() async throws {
    try XCTSkipUnless(
      KernelVersion.running >= KernelVersion(6, 1) && KernelVersion.running < KernelVersion(6, 12),
      "this kernel has something better, or nothing")
    let path = try await path(Self.lossy)
    let servers = [
      try await Iperf.server(in: path.right),
      try await Iperf.server(in: path.right, port: 5202),
    ]
    let old = try Command(
      ["iperf3", "-c", Path.rightAddress.v4, "-p", "5202", "-t", "120"], netns: path.left.name)
    let sockets = { () async throws -> String in
      try await execute(
        "ss", "-tinH", "state", "established", "dport", "=", ":5202", netns: path.left.name)
    }
    try await eventually("the connection") { try await sockets().contains(" reno ") }
    let daemon = try await daemon()
    _ = try await run(path, 5)
    // The one of iperf3 that carries data.
    try await eventually(upTo: 30, "the older connection to be moved") {
      try await sockets().contains(" bbr ")
    }
    old.signal(SIGKILL)
    try await daemon.stop()
    for server in servers { server.signal(SIGTERM) }
    await path.close()
  }

  func testThinConnectionsGetLinearTimeouts() async throws {
    try XCTSkipIf(
      KernelVersion.running < KernelVersion(6, 1),
      "before Linux 6.0 a BPF program cannot set it")
    // Near peers get time-outs that come sooner in its place.
    let path = try await path(["--loss-percent", "15"], delay: max(30, Self.delay))
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    // Twenty small segments a second: too few for fast retransmission.
    let client = try Command(
      ["iperf3", "-c", Path.rightAddress.v4, "-t", "20", "-b", "16k", "-l", "100"],
      netns: path.left.name)
    try await eventually(upTo: 30, "a thin connection with linear time-outs") {
      try await ConnectionPath.all(from: path.left).contains { $0.thin > 0 }
    }
    client.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
  }
}

/// What takes netem, htcp or dctcp: kernels in guests have all of them.
final class TCPConnModuleTests: TCPConnTestCase {
  private func skipWithoutNetem() async throws {
    guard !Guest.isHere else { return }
    let hasNetem = await Path.hasNetem()
    try XCTSkipUnless(hasNetem, "\(KernelVersion.release) has no netem")
  }

  private func skipWithout(_ module: String) async throws {
    guard !Guest.isHere else { return }
    _ = try? await execute("modprobe", "-q", module)
    try XCTSkipUnless(available(module), "\(KernelVersion.release) has no \(module)")
  }

  private func available(_ module: String) -> Bool {
    let path = "/proc/sys/net/ipv4/tcp_available_congestion_control"
    let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    return text.contains(module.dropFirst("tcp_".count))
  }

  /// One segment of ten is lost, and the round trip is that of a local network:
  /// what the C program of the same name is measured by.
  func testLongMuchLossByNetem() async throws {
    try await skipWithoutNetem()
    let path = try await Path(netem: "loss 10%")
    try await path.setLargeBuffers()
    try await path.left.set(Self.algorithm, "cubic")
    let server = try await Iperf.server(in: path.right)
    let without = try await run(path, 1)
    let daemon = try await daemon()
    for _ in 0..<3 { _ = try await run(path, 1) }
    let with = try await run(path, 1)
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    print("10 % loss by netem: \(without.rate) Mbit/s with cubic, \(with.rate) with the daemon")
    XCTAssertEqual(with.algorithm, "bbr")
    XCTAssertEqual(known.first?.reason, "loss")
    XCTAssertGreaterThan(with.rate, without.rate)
  }

  /// The module is loaded, the algorithm allowed while the daemon runs, and tried.
  func testLongDCTCPIsLoadedWhereThePathMarks() async throws {
    try await skipWithout("tcp_dctcp")
    let path = try await path(Self.clean + ["--ecn-threshold-bytes", "20000"], delay: 10)
    for end in [path.left, path.right] { try await end.set("net.ipv4.tcp_ecn", "1") }
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    _ = try await run(path, 5)
    var last = try await run(path, 3)
    var known = try await ConnectionPath.all(from: path.left)
    // It may have carried a trial that is over by now.
    for _ in 0..<3 where known.first.map({ $0.chosen != last.algorithm }) ?? false {
      last = try await run(path, 1)
      known = try await ConnectionPath.all(from: path.left)
    }
    let allowed = try await TestNamespace.initial.sysctl(Self.allowed)
    try await daemon.stop()
    let after = try await TestNamespace.initial.sysctl(Self.allowed)
    server.signal(SIGTERM)
    await path.close()

    XCTAssertTrue(allowed.contains("dctcp"), allowed)
    XCTAssertFalse(after.contains("dctcp"), "put back on exit")
    let line = try XCTUnwrap(known.first)
    XCTAssertTrue(line.algorithms.contains { $0.algorithm == "dctcp" }, "\(line)")
    XCTAssertEqual(last.algorithm, line.chosen)
    print("marks: \(line.chosen): \(line.algorithms)")
  }

  /// htcp comes after bbr: here bbr has no module to be loaded.
  func testLongHTCPWhereThereIsNoBBR() async throws {
    try XCTSkipUnless(Guest.isHere, "takes bbr away from the machine")
    let configuration = "/etc/modprobe.d/bpftune-test.conf"
    try "install tcp_bbr /bin/false\n".write(
      toFile: configuration, atomically: true, encoding: .utf8)
    defer { try? FileManager.default.removeItem(atPath: configuration) }
    _ = try? await execute("rmmod", "tcp_bbr")
    try XCTSkipIf(available("tcp_bbr"), "bbr is loaded, and in use")
    let path = try await path(Self.lossy)
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon()
    for _ in 0..<3 { _ = try await run(path, 3) }
    let known = try await ConnectionPath.all(from: path.left)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertTrue(daemon.lines.contains { $0.contains("trying htcp") }, "\(daemon.lines)")
    let line = try XCTUnwrap(known.first)
    XCTAssertTrue(line.algorithms.contains { $0.algorithm == "htcp" }, "\(line)")
    XCTAssertFalse(line.algorithms.contains { $0.algorithm == "bbr" }, "\(line)")
  }
}
