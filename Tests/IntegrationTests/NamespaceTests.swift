import TestSupport
import XCTest

/// Namespaces come and go.
final class NamespaceTests: IntegrationTestCase {
  func testNamespaceCreatedAfterStartIsTuned() async throws {
    let daemon = try await Daemon()
    let path = try await Path(delay: Guest.isHere ? 400 : 100)
    try await path.right.set(Self.rmem, "4096 131072 67108864")
    // Not by an administrator: before the daemon hears of the namespace there
    // is nothing to disable, after it the write counts. So traffic starts from
    // the kernel's default of 4 MiB, which a long path outgrows at 150 Mbit/s, or a
    // quarter of that in a guest.
    let server = try await Iperf.server(in: path.right)
    let before = try await path.left.maximum(Self.wmem)
    _ = try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: Guest.isHere ? 20 : 6)
    let after = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(after, before)
    XCTAssertFalse(daemon.changes(of: Self.wmem).isEmpty)
  }

  /// unshare(2) by a process that stays inside, without any mount.
  func testUnsharedAndClonedNamespacesAreSeen() async throws {
    let daemon = try await Daemon()
    let unshared = try Command([
      "unshare", "-n", "sh", "-c", "readlink /proc/self/ns/net; sleep 20",
    ])
    let cloned = try Command(["perl", "-e", Self.clone])
    for command in [unshared, cloned] {
      let link = try await command.line(containing: "net:[")
      let inode = link.dropFirst(5).dropLast()
      _ = try await daemon.line(containing: "netns \(inode): watching it")
      command.signal(SIGKILL)
    }
    try await daemon.stop()
  }

  /// clone(CLONE_NEWNET | SIGCHLD), which no common command does by itself.
  private static var clone: String {
    #if arch(x86_64)
      let number = 56
    #else
      let number = 220
    #endif
    return """
      $| = 1;
      my $pid = syscall(\(number), 0x40000011, 0, 0, 0, 0);
      if ($pid == 0) { print readlink("/proc/self/ns/net"), "\\n"; sleep 20; exit }
      waitpid($pid, 0);
      """
  }

  func testLongAVanishedNamespaceIsLetGo() async throws {
    let daemon = try await Daemon()
    let namespace = try await TestNamespace("gone")
    let inode = namespace.inode
    _ = try await daemon.line(containing: "netns \(inode): watching it")
    await namespace.delete()
    _ = try await daemon.line(containing: "netns \(inode): gone", upTo: 20)
    try await daemon.stop()
    XCTAssertFalse(daemon.lines.contains { $0.contains("error") || $0.contains("warning") })
  }

  func testLongTwoHundredNamespacesLeaveNothingBehind() async throws {
    let daemon = try await Daemon()
    // Namespaces of others, which stay.
    let before = daemon.lines.filter { $0.contains("watching it") }.count
    try await Self.churn(200)  // what a crowd makes the allocator keep
    try await Self.settle(daemon, besides: before)
    let descriptors = daemon.descriptors
    let memory = daemon.anonymousMemory
    try await Self.churn(200)
    try await Self.settle(daemon, besides: before)
    XCTAssertEqual(daemon.descriptors, descriptors)
    XCTAssertLessThan(daemon.anonymousMemory, memory + 1024, "KiB")
    let status = try await daemon.stop()
    XCTAssertEqual(status, 0)
    let seen = daemon.lines.filter { $0.contains("watching it") }.count
    XCTAssertGreaterThanOrEqual(seen, 200)
    XCTAssertFalse(daemon.lines.contains { $0.contains("error") || $0.contains("warning") })
  }

  /// Creates and deletes namespaces as fast as one shell can.
  private static func churn(_ count: Int) async throws {
    let script = "for i in $(seq \(count)); do unshare -n true; done"
    try await execute("sh", "-c", script, upTo: 60)
  }

  private static func settle(_ daemon: Daemon, besides others: Int) async throws {
    try await eventually(upTo: 40, "every namespace to be let go") {
      let seen = daemon.lines.filter { $0.contains("watching it") }.count
      let gone = daemon.lines.filter { $0.hasSuffix(": gone") }.count
      return gone >= seen - others
    }
  }

  func testAMachineWithoutIPv6() async throws {
    let path = try await Path(delay: 10)
    for end in [path.left, path.right] {
      try await end.set("net.ipv6.conf.all.disable_ipv6", "1")
    }
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon()
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1)
    let maximum = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(maximum, 65536)
  }
}
