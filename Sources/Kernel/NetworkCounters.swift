/// Counters of the thread's network namespace, from /proc/net/snmp and
/// /proc/net/netstat: a line of names and a line of numbers for each protocol.
public enum NetworkCounters {
  /// The sum of those named, as `TcpExt.TCPRcvQDrop`; one that the kernel does
  /// not have counts as 0. Throws when neither file can be read.
  public static func sum(of names: Set<String>) throws(SystemCallFailure) -> Int64 {
    var sum: Int64 = 0
    for path in ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"] {
      sum &+= self.sum(of: names, in: String(decoding: try contents(of: path), as: UTF8.self))
    }
    return sum
  }

  static func sum(of names: Set<String>, in text: String) -> Int64 {
    var sum: Int64 = 0
    let lines = text.split(separator: "\n")
    for index in stride(from: 0, to: lines.count - 1, by: 2) {
      let titles = lines[index].split(separator: " ")
      let numbers = lines[index + 1].split(separator: " ")
      guard let protocolName = titles.first?.dropLast(), titles.count == numbers.count else {
        continue
      }
      for (title, number) in zip(titles, numbers).dropFirst()
      where names.contains("\(protocolName).\(title)") {
        sum &+= Int64(number) ?? 0
      }
    }
    return sum
  }
}
