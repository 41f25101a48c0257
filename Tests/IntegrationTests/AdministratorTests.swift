import Glibc
import TestSupport
import XCTest

/// An administrator's write wins, at once, and stays.
final class AdministratorTests: IntegrationTestCase {
  private static let theirs = "4096 16384 131072"

  /// Runs traffic for which the daemon would raise `tcp_wmem` on the left, and
  /// checks that the administrator's value outlives it.
  private func theirValueStays(
    on path: Path, _ daemon: Daemon, file: StaticString = #filePath, line: UInt = #line
  ) async throws {
    let server = try await Iperf.server(in: path.right)
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1.5)
    let value = try await path.left.sysctl(Self.wmem)
    server.signal(SIGTERM)
    XCTAssertEqual(value, Self.theirs, file: file, line: line)
    let disabled = daemon.lines.filter {
      $0.contains("tcp-buffer is disabled") && $0.contains("\(path.left.inode)")
    }
    XCTAssertEqual(disabled.count, 1, "\(daemon.lines)", file: file, line: line)
    XCTAssertTrue(disabled.first?.contains("(sysctl) set \(Self.wmem) from ") ?? false)
    XCTAssertTrue(disabled.first?.contains(" to \(Self.theirs);") ?? false)
  }

  private func tune(_ path: Path) async throws {
    let server = try await Iperf.server(in: path.right)
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1)
    server.signal(SIGTERM)
    try await server.wait()
  }

  func testNamespaceOlderThanTheDaemonTunedBefore() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let daemon = try await Daemon()
    try await tune(path)
    let tuned = try await path.left.maximum(Self.wmem)
    XCTAssertGreaterThan(tuned, 131072)
    try await path.left.set(Self.wmem, Self.theirs)
    try await theirValueStays(on: path, daemon)
    try await daemon.stop()
    await path.close()
  }

  func testNamespaceOlderThanTheDaemonNotTunedBefore() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    let daemon = try await Daemon()
    try await path.left.set(Self.wmem, Self.theirs)
    try await theirValueStays(on: path, daemon)
    try await daemon.stop()
    await path.close()
  }

  func testNamespaceYoungerThanTheDaemon() async throws {
    let daemon = try await Daemon()
    let path = try await Path(delay: 10)
    try await path.right.set(Self.rmem, "4096 131072 67108864")
    try await path.left.set(Self.wmem, Self.theirs)
    try await theirValueStays(on: path, daemon)
    try await daemon.stop()
    await path.close()
  }

  func testLongInitNamespace() async throws {
    let saved = try await SavedSysctls(Self.wmem)
    do {
      let path = try await Path(delay: 10, left: .initial)
      try await path.right.set(Self.rmem, "4096 131072 67108864")
      let daemon = try await Daemon("--rollback")
      try await path.left.set(Self.wmem, Self.theirs)
      try await theirValueStays(on: path, daemon)
      // Rolling back does not touch it either.
      try await daemon.stop()
      let value = try await path.left.sysctl(Self.wmem)
      await path.close()
      XCTAssertEqual(value, Self.theirs)
    } catch {
      await saved.restore()
      throw error
    }
    await saved.restore()
  }

  func testOtherNamespacesGoOnBeingTuned() async throws {
    let bystander = try await TestNamespace("bystander")
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let daemon = try await Daemon()
    try await bystander.set(Self.wmem, Self.theirs)
    try await tune(path)
    let tuned = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    await path.close()
    await bystander.delete()
    XCTAssertGreaterThan(tuned, 131072)
  }

  func testWritingTheSameValueIsNoConflict() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let daemon = try await Daemon()
    try await path.left.set(Self.wmem, "4096\t16384   65536")
    _ = try await daemon.line(containing: "the value that was there already, ignoring")
    try await tune(path)
    let tuned = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    await path.close()
    XCTAssertGreaterThan(tuned, 131072)
  }

  func testNamesAreMatchedExactly() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let daemon = try await Daemon()
    // Neighbours of the tunables, by name and by subject.
    try await path.left.set("net.ipv4.tcp_mtu_probing", "1")
    try await path.left.set("net.ipv4.udp_wmem_min", "8192")
    try await path.left.set("net.ipv4.tcp_no_metrics_save", "1")
    try await tune(path)
    let tuned = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    await path.close()
    XCTAssertGreaterThan(tuned, 131072)
    XCTAssertFalse(daemon.lines.contains { $0.contains("tcp-buffer is disabled") })
    XCTAssertTrue(daemon.lines.contains { $0.contains("tcp-memory is disabled") })
  }

  func testLongManyWritesUnderTrafficAreNeverOverwritten() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon()
    async let traffic = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 4)
    try await server.line(containing: "connected to")
    // The first ones race with the daemon's own steps.
    for round in 0..<50 {
      let theirs = "4096 16384 \(65536 + 4096 * round)"
      try await path.left.set(Self.wmem, theirs)
      try await Task.sleep(for: .milliseconds(round < 10 ? 2 : 20))
      let value = try await path.left.sysctl(Self.wmem)
      XCTAssertEqual(value, theirs, "round \(round)")
    }
    _ = try await traffic
    let value = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(value, 65536 + 4096 * 49)
  }

  /// A container that writes its own tunables in a loop neither fills the ring
  /// buffer nor hides what is written elsewhere.
  func testAFloodOfWritesInANamespaceIsFoldedAndGivenUpOn() async throws {
    let flooder = try await TestNamespace("flooder")
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    let daemon = try await Daemon()
    try await flooder.inside {
      for round in 0..<20_000 {
        let fd = open("/proc/sys/net/ipv4/tcp_wmem", O_WRONLY)
        _ = "4096 16384 \(65536 + 4096 * (round % 7))".withCString { write(fd, $0, strlen($0)) }
        close(fd)
      }
    }
    let given = try await daemon.line(containing: "sets tunables hundreds of times a second")
    XCTAssertTrue(given.contains("is disabled in netns \(flooder.inode)"), given)
    try await path.left.set(Self.wmem, Self.theirs)
    try await theirValueStays(on: path, daemon)
    try await daemon.stop()
    await path.close()
    await flooder.delete()
    XCTAssertFalse(daemon.lines.contains { $0.contains("events lost") }, "\(daemon.lines)")
    let received = daemon.lines.compactMap { line in
      line.split(separator: "events received: ").dropFirst().first.flatMap { Int($0) }
    }
    XCTAssertLessThan(received.first ?? .max, 2000)
  }

  /// What found the ring buffer full is kept beside it and counts as well.
  func testAWriteThatFoundTheRingFullIsHeardOf() async throws {
    let victim = try await TestNamespace("victim")
    var flooders: [TestNamespace] = []
    for number in 0..<10 { flooders.append(try await TestNamespace("flooder\(number)")) }
    let daemon = try await Daemon("--allow", "tcp-buffer")
    // It takes nothing off the ring, which holds some thousand of these records;
    // fewer from each namespace than are folded.
    daemon.command.signal(SIGSTOP)
    for flooder in flooders {
      try await flooder.inside {
        for round in 0..<150 {
          let fd = open("/proc/sys/net/ipv4/tcp_wmem", O_WRONLY)
          _ = "4096 16384 \(65536 + 4096 * (round % 7))".withCString { write(fd, $0, strlen($0)) }
          close(fd)
        }
      }
    }
    try await victim.set(Self.wmem, Self.theirs)
    daemon.command.signal(SIGCONT)
    let told = try await daemon.line(containing: "is disabled in netns \(victim.inode)")
    XCTAssertTrue(told.contains("(sysctl) set \(Self.wmem) from "), told)
    XCTAssertTrue(told.contains(" to \(Self.theirs);"), told)
    _ = try await daemon.line(containing: "events lost so far")
    try await daemon.stop()
    for flooder in flooders { await flooder.delete() }
    await victim.delete()
  }
}
