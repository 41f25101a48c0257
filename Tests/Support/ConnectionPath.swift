import CShims
import Foundation

/// A line of `bpftune paths --json`.
public struct ConnectionPath: Decodable, Sendable {
  public struct Arm: Decodable, Sendable {
    public let algorithm: String
    public let kilobitsPerSecond: Int
  }

  /// Of connections whose least time-out has been lowered.
  public struct SoonerTimeouts: Decodable, Sendable {
    public let connections: Int
    public let sentAgain: Int
    public let inVain: Int
  }

  public let namespace: UInt64
  public let namespaceCookie: UInt64
  public let path: String
  public let original: String
  public let chosen: String
  public let trial: String?
  public let reason: String
  public let segments: Int
  public let retransmitted: Int
  public let marked: Int
  public let connections: Int
  public let switches: Int
  public let thin: Int
  public let soonerTimeouts: SoonerTimeouts
  public let algorithms: [Arm]

  /// What the running daemon knows of connections from a namespace.
  public static func all(from namespace: TestNamespace) async throws -> [ConnectionPath] {
    let text = try await execute(Products.path("bpftune"), "paths", "--json")
    let inode = namespace.inode
    // Its number may have been another's a moment ago.
    let cookie = try await namespace.inside {
      var cookie: UInt64 = 0
      return bpftune_netns_cookie(&cookie) == 0 ? cookie : 0
    }
    return try JSONDecoder().decode([ConnectionPath].self, from: Data(text.utf8))
      .filter {
        $0.namespace == inode && (cookie == 0 || $0.namespaceCookie == cookie)
      }
  }
}
