import Foundation
import Kernel
import TestSupport
import XCTest

/// A machine whose table of connections is small, to be put back.
class ConntrackTestCase: IntegrationTestCase {
  static let names = [
    "net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets",
  ]
  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    // Loads the modules, where they are any.
    let namespace = try await Self.namespace("load", "ct state new counter")
    await namespace.delete()
    saved = try await SavedSysctls(Self.names)
    try await TestNamespace.initial.set(Self.names[0], "200")
    try await TestNamespace.initial.set(Self.names[1], "512")
  }

  override func tearDown() async throws {
    await saved?.restore()
    try await super.tearDown()
  }

  func values() async throws -> [Int] {
    var values: [Int] = []
    for name in Self.names {
      values.append(Int(try await TestNamespace.initial.sysctl(name)) ?? -1)
    }
    return values
  }

  /// A namespace where a rule looks at all that goes out.
  static func namespace(_ label: String, _ rule: String) async throws -> TestNamespace {
    let namespace = try await TestNamespace(label)
    try await execute(
      "nft",
      "add table ip t; add chain ip t o { type filter hook output priority 0; };"
        + " add rule ip t o \(rule)", netns: namespace.name)
    return namespace
  }

  /// Columns of the table's counters.
  func counters(_ namespace: TestNamespace) async throws -> (refused: Int, evicted: Int) {
    let found = try await namespace.inside {
      NamespaceCounters.conntrack(["drop", "early_drop"]).map { Int($0) }
    }
    return found.count == 2 ? (found[0], found[1]) : (-1, -1)
  }

  /// So many questions, one every two milliseconds, that are answered after 100;
  /// how many of the answers arrived.
  func ask(_ count: Int, in namespace: TestNamespace) async throws -> Int {
    try await namespace.inside { () -> Int in
      guard let server = try? DatagramSocket(port: 5300) else { return -1 }
      var clients: [DatagramSocket] = []
      var waiting: [(due: ContinuousClock.Instant, who: sockaddr_in)] = []
      while clients.count < count || !waiting.isEmpty {
        if clients.count < count {
          guard let client = try? DatagramSocket() else { return -1 }
          client.send(1, 5300)
          clients.append(client)
        }
        waiting += server.senders().map { (.now + .milliseconds(100), $0) }
        while let first = waiting.first, first.due <= .now {
          server.answer(first.who)
          waiting.removeFirst()
        }
        usleep(2000)
      }
      return clients.reduce(0) { $0 + $1.drain() }
    }
  }

  /// So many connections within two seconds; how many packets were refused,
  /// and how many connections came about.
  func connect(_ count: Int, in namespace: TestNamespace) async throws -> (Int, Int) {
    let established = try await namespace.inside { () -> Int in
      guard
        let connections = try? Connections(
          count, port: 5000, pause: UInt32(2_000_000 / count))
      else { return -1 }
      // A SYN that was refused is sent again after a second.
      usleep(1_200_000)
      return connections.established
    }
    return (try await counters(namespace).refused, established)
  }
}
