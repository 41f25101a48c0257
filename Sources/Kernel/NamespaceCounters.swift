import Glibc

/// Counters of the network namespace of the calling thread, from /proc.
///
/// /proc/net is that of the process's first thread; a thread that has entered
/// another namespace has its own.
public enum NamespaceCounters {
  private static let folder = "/proc/thread-self/net/"

  /// A counter of `snmp`: group `Ip`, name `ReasmOKs`. Nil where it is absent.
  public static func snmp(_ group: String, _ name: String) -> Int64? {
    let rows = rows(of: folder + "snmp").filter { $0.first.map { $0 == group + ":" } ?? false }
    guard rows.count == 2, let column = rows[0].firstIndex(where: { $0 == name }),
      column < rows[1].count
    else { return nil }
    return Int64(rows[1][column])
  }

  /// A counter of `snmp6`, such as `Ip6ReasmOKs`.
  public static func snmp6(_ name: String) -> Int64? {
    rows(of: folder + "snmp6").first { $0.count == 2 && $0[0] == name }.flatMap { Int64($0[1]) }
  }

  /// Columns of `stat/nf_conntrack`, which has a line for each CPU, in
  /// hexadecimal; each summed up. Empty where connections are not tracked.
  public static func conntrack(_ names: [String]) -> [Int64] {
    perProcessor("nf_conntrack", names)
  }

  /// Columns of a file in `stat`, which has a line for each CPU, in hexadecimal;
  /// each summed up, those that are absent left out.
  static func perProcessor(_ file: String, _ names: [String]) -> [Int64] {
    let rows = rows(of: folder + "stat/" + file)
    guard let header = rows.first else { return [] }
    return names.compactMap { name in
      guard let column = header.firstIndex(where: { $0 == name }) else { return nil }
      return rows.dropFirst().reduce(0) { sum, row in
        sum + (column < row.count ? Int64(row[column], radix: 16) ?? 0 : 0)
      }
    }
  }

  /// The one number in a file, such as a sysctl that only reads; nil where it
  /// is absent.
  public static func number(in path: String) -> Int64? {
    rows(of: path).first?.first.flatMap { Int64($0) }
  }

  private static func rows(of path: String) -> [[Substring]] {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return [] }
    defer { close(fd) }
    var bytes: [UInt8] = []
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 8192) { buffer in
      while case let count = read(fd, buffer.baseAddress, buffer.count), count > 0 {
        bytes += buffer[..<count]
      }
    }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map {
      $0.split(whereSeparator: \.isWhitespace)
    }
  }
}
