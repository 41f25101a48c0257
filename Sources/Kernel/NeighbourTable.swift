import CShims
import Glibc

/// A neighbour table: one an address family, for all namespaces of the kernel
/// (`struct neigh_table`, include/net/neighbour.h).
public enum NeighbourTable: String, CaseIterable, Sendable {
  case arp = "arp_cache"
  case ndisc = "ndisc_cache"

  /// `AF_INET` or `AF_INET6`.
  public var family: Int32 { self == .arp ? AF_INET : AF_INET6 }

  /// What the kernel has counted for a table since it was started.
  public struct Counts: Sendable, Equatable {
    /// `forced_gc_runs`: collections since the table was too full.
    public var forcedCollections: Int64
    /// `table_fulls`: entries that were refused.
    public var refused: Int64
    /// `unresolved_discards`: packets that were dropped since too many waited for an
    /// address.
    public var discarded: Int64

    public init(forcedCollections: Int64, refused: Int64, discarded: Int64) {
      self.forcedCollections = forcedCollections
      self.refused = refused
      self.discarded = discarded
    }
  }

  /// From /proc/net/stat, which only the init namespace has; nil elsewhere.
  public func counts() -> Counts? {
    let sums = NamespaceCounters.perProcessor(
      rawValue, ["forced_gc_runs", "table_fulls", "unresolved_discards"])
    guard sums.count == 3 else { return nil }
    return Counts(forcedCollections: sums[0], refused: sums[1], discarded: sums[2])
  }

  /// Sets `gc_thresh1`, 2 or 3. Only the init namespace may.
  func set(threshold: Int, to value: Int64) throws(NetlinkFailure) {
    let error = bpftune_neightbl_set(
      family, rawValue, Int32(threshold), UInt32(clamping: value))
    guard error == 0 else { throw NetlinkFailure("set a threshold of \(rawValue)", error) }
  }

  /// How many neighbours the prefixes configured in the calling thread's
  /// namespace could have, and no more than `most`.
  public func need(most: Int64) throws(NetlinkFailure) -> Int64 {
    var need: UInt64 = 0
    let error = bpftune_neightbl_need(family, UInt64(clamping: most), &need)
    guard error == 0 else { throw NetlinkFailure("read the addresses", error) }
    return Int64(clamping: need)
  }
}

/// A request to netlink that failed: what was attempted, and why.
public struct NetlinkFailure: Error, Sendable, CustomStringConvertible {
  public let operation: String
  /// In libnl's words.
  public let reason: String

  init(_ operation: String, _ error: Int32) {
    self.operation = operation
    reason = String(cString: bpftune_netlink_error(error))
  }

  public var description: String { "\(operation) by netlink: \(reason)" }
}
