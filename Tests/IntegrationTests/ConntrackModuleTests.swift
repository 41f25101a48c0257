import Foundation
import TestSupport
import XCTest

/// conntrack where the kernel begins to track connections only after the daemon
/// has started.
final class ConntrackModuleTests: IntegrationTestCase {
  private static let limit = "/proc/sys/net/netfilter/nf_conntrack_max"

  private func isTracking() -> Bool { FileManager.default.fileExists(atPath: Self.limit) }

  func testTheModuleMayBeLoadedAfterTheDaemon() async throws {
    if isTracking() {
      _ = try? await execute("modprobe", "-r", "nft_ct", "nf_conntrack")
    }
    try XCTSkipIf(isTracking(), "this kernel has connection tracking built in, or it is in use")

    let daemon = try await Daemon("--allow", "conntrack")
    // The smallest hash table, and the limit that the kernel gives it.
    try await execute("modprobe", "nf_conntrack", "hashsize=64")
    let namespace = try await TestNamespace("module")
    try await execute(
      "nft",
      "add table ip t; add chain ip t o { type filter hook output priority 0; };"
        + " add rule ip t o ct state new counter", netns: namespace.name)
    let before = Int(try await TestNamespace.initial.sysctl("net.netfilter.nf_conntrack_max")) ?? 0
    XCTAssertGreaterThan(before, 0)
    let half = before * 3 / 4
    XCTAssertLessThan(half, 4096, "more than wait to be accepted")
    let established = try await namespace.inside { () -> Int in
      guard let first = try? Connections(half, port: 5000, pause: 100),
        let second = try? Connections(half, port: 5001, pause: 100)
      else { return -1 }
      // A SYN that was refused is sent again after a second, and then after two.
      sleep(4)
      return first.established + second.established
    }
    let after = Int(try await TestNamespace.initial.sysctl("net.netfilter.nf_conntrack_max")) ?? 0
    try await daemon.stop()
    await namespace.delete()
    print("conntrack: loaded after the daemon: limit \(before), then \(after); \(established)")
    XCTAssertEqual(established, 2 * half)
    XCTAssertGreaterThan(after, before)
    XCTAssertTrue(
      daemon.changes(of: "net.netfilter.nf_conntrack_max").contains {
        $0.contains("bytes an entry")
      })
    try await TestNamespace.initial.set("net.netfilter.nf_conntrack_max", "\(before)")
  }
}
