import Foundation
import TestSupport
import XCTest

/// The daemon under conditions that it cannot choose.
final class RobustnessTests: IntegrationTestCase {
  // MARK: A full ring buffer

  func testAFullRingBufferIsCountedAndReported() async throws {
    let elsewhere = try await TestNamespace("elsewhere")
    let path = try await limitedPath()
    let daemon = try await Daemon()
    daemon.command.signal(SIGSTOP)
    // More writes than the ring buffer holds records, and from no namespace so
    // many that they are folded.
    let script = """
      for my $space (1..12) {
        for my $write (1..150) {
          open(my $file, ">", "/proc/sys/net/ipv4/tcp_wmem") or die $!;
          print $file "4096 16384 ", 99999 + $write, "\\n";
        }
        syscall(\(Self.unshare), 0x40000000) == 0 or die $!;
      }
      """
    try await execute("perl", "-e", script, netns: elsewhere.name, upTo: 60)
    daemon.command.signal(SIGCONT)
    let line = try await daemon.line(containing: "events lost so far: ")
    let count = try XCTUnwrap(line.firstMatch(of: /: (\d+) to a full ring buffer/))
    XCTAssertGreaterThan(Int(count.1) ?? 0, 500, line)
    // What was in the ring counts, and the daemon goes on as before.
    _ = try await daemon.line(containing: "tcp-buffer is disabled in netns \(elsewhere.inode)")
    try await assertTunes(path)
    let status = try await daemon.stop()
    XCTAssertEqual(status, 0)
    XCTAssertTrue(daemon.lines.last?.contains("events lost: \(count.1) to") ?? false)
    await path.close()
    await elsewhere.delete()
  }

  // MARK: Interruptions

  /// A stop and a continuation interrupt the wait for events (EINTR), as the
  /// suspension of the machine does.
  func testLongStopAndContinue() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon()
    for _ in 0..<50 {
      daemon.command.signal(SIGSTOP)
      try await Task.sleep(for: .milliseconds(5))
      daemon.command.signal(SIGCONT)
      try await Task.sleep(for: .milliseconds(5))
    }
    let server = try await Iperf.server(in: path.right)
    async let traffic = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 3)
    for _ in 0..<10 {
      daemon.command.signal(SIGSTOP)
      try await Task.sleep(for: .milliseconds(100))
      daemon.command.signal(SIGCONT)
      try await Task.sleep(for: .milliseconds(100))
    }
    _ = try await traffic
    server.signal(SIGTERM)
    let maximum = try await path.left.maximum(Self.wmem)
    let status = try await daemon.stop()
    await path.close()
    XCTAssertEqual(status, 0)
    XCTAssertGreaterThan(maximum, Self.sendLimit)
    assertNoComplaint(daemon)
  }

  // MARK: Many namespaces at once

  func testFiveHundredNamespacesAsFastAsTheKernelCan() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon()
    let descriptors = daemon.descriptors
    // Each unshare() lets go of the namespace that the one before made.
    let script = """
      for (1..500) {
        syscall(\(Self.unshare), 0x40000000) == 0 or die $!;
        print readlink("/proc/self/ns/net"), "\\n";
      }
      """
    async let churn = execute("perl", "-e", script, upTo: 120)
    try await assertTunes(path)
    let made = Set(try await churn.matches(of: /net:\[(\d+)\]/).map(\.1))
    // Other programs on the machine may have namespaces that come and go, too.
    func count(_ what: String) -> Int {
      daemon.lines.filter { line in
        let words = line.split(separator: " ", maxSplits: 3)
        return words.count == 4 && words[3] == what && made.contains(words[2].dropLast())
      }.count
    }
    do {
      try await eventually(upTo: 30, "every namespace to be seen and let go") {
        let seen = count("watching it")
        return seen >= 500 && count("gone") >= seen
      }
    } catch {
      let last = daemon.lines.suffix(5).joined(separator: "\n")
      XCTFail("\(error): \(count("watching it")) seen, \(count("gone")) gone:\n\(last)")
    }
    XCTAssertEqual(daemon.descriptors, descriptors)
    let status = try await daemon.stop()
    await path.close()
    XCTAssertEqual(status, 0)
    assertNoComplaint(daemon)
  }

  private static var unshare: Int {
    #if arch(x86_64)
      272
    #else
      97
    #endif
  }

  // MARK: Clock steps

  func testClockSteps() async throws {
    guard Guest.isHere else { throw XCTSkip("sets the machine's clock: only in a guest") }
    let path = try await limitedPath()
    let daemon = try await Daemon()
    let server = try await Iperf.server(in: path.right)
    let before = daemon.cpuMicroseconds
    for step in ["+2 days", "-4 days", "+2 days"] {
      try await execute("date", "-s", step)
      try await Task.sleep(for: .seconds(1))
    }
    XCTAssertLessThan(daemon.cpuMicroseconds - before, 2_000_000, "it goes on sleeping")
    let unchanged = try await path.left.maximum(Self.wmem)
    XCTAssertEqual(unchanged, Self.sendLimit)
    async let traffic = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 3)
    try await server.line(containing: "connected to")
    try await execute("date", "-s", "+1 day")
    try await Task.sleep(for: .seconds(1))
    try await execute("date", "-s", "-1 day")
    // iperf3 reads the wall clock; what it makes of the steps does not matter.
    _ = try? await traffic
    let maximum = try await path.left.maximum(Self.wmem)
    let status = try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(status, 0)
    XCTAssertGreaterThan(maximum, Self.sendLimit)
    XCTAssertFalse(daemon.lines.contains { $0.contains(": gone") || $0.contains("disabled") })
    assertNoComplaint(daemon)
  }
}
