import CShims

/// What a tuner from outside says of itself, looked through: nothing in it is
/// taken on trust.
public struct ModuleDescription: Sendable {
  /// A module says or does what makes no sense.
  public struct Nonsense: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
  }

  public struct Signal: Sendable, Equatable {
    public let name: String
    /// Of its BPF object, in their order.
    public let programs: [String]
  }

  public let name: String
  /// What it does, in a line.
  public let about: String
  /// What one state of it is about.
  public let scope: Tunable.Scope
  public let tunables: [Tunable]
  public let scenarios: [String]
  public let signals: [Signal]
  public let strategies: [String]
  /// Wants to hear of namespaces that come and go.
  public let hearsNamespaces: Bool
  /// Bytes of its BPF object.
  let objectSize: Int

  init(_ packet: UnsafeRawBufferPointer) throws(Nonsense) {
    guard packet.count == MemoryLayout<bpftune_said_description>.size else {
      throw Nonsense("its description has \(packet.count) bytes")
    }
    let said = packet.loadUnaligned(as: bpftune_said_description.self)
    name = try Self.text(said.name, "its name")
    guard Self.isName(name) else {
      throw Nonsense(
        "its name \"\(name)\" is not made of lower-case letters, digits and dashes, 24 at most")
    }
    about = try Self.text(said.description, "its description")
    scope = try Self.scope(said.scope, "its state")
    objectSize = Int(said.object_size)
    guard objectSize > 0, objectSize <= Int(BPFTUNE_MOST_OBJECT) else {
      throw Nonsense("its BPF object has \(objectSize) bytes")
    }
    tunables = try Self.list(
      said.tunables, of: bpftune_said_tunable.self, said.tunable_count, 1, BPFTUNE_MOST_TUNABLES,
      "tunables"
    ) { (tunable, what) throws(Nonsense) in try Self.tunable(tunable, what) }
    scenarios = try Self.list(
      said.scenarios, of: Name.self, said.scenario_count, 1, BPFTUNE_MOST_SCENARIOS, "scenarios"
    ) { (name, what) throws(Nonsense) in try Self.text(name, what) }
    strategies = try Self.list(
      said.strategies, of: Name.self, said.strategy_count, 0, BPFTUNE_MOST_STRATEGIES, "strategies"
    ) { (name, what) throws(Nonsense) in try Self.text(name, what) }
    signals = try Self.list(
      said.signals, of: bpftune_said_signal.self, said.signal_count, 1, BPFTUNE_MOST_SIGNALS,
      "signals"
    ) { (signal, what) throws(Nonsense) in try Self.signal(signal, what) }
    hearsNamespaces = said.hears_namespaces != 0
    guard Set(tunables).count == tunables.count else {
      throw Nonsense("it names a tunable twice")
    }
    guard strategies.count != 1 else { throw Nonsense("one strategy is no choice") }
    guard strategies.isEmpty || said.evaluates != 0 else {
      throw Nonsense("it has strategies and cannot evaluate them")
    }
  }

  /// Of a tuner: `tcp-buffer`.
  public static func isName(_ name: String) -> Bool {
    let bytes = Array(name.utf8)
    guard let first = bytes.first, let last = bytes.last, bytes.count <= 24 else { return false }
    let letters = UInt8(ascii: "a")...UInt8(ascii: "z")
    let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
    return letters.contains(first) && last != UInt8(ascii: "-")
      && bytes.allSatisfy { letters.contains($0) || digits.contains($0) || $0 == UInt8(ascii: "-") }
  }

  private typealias Name = bpftune_name_text

  private static func scope(_ number: UInt32, _ what: String) throws(Nonsense) -> Tunable.Scope {
    switch number {
    case UInt32(BPFTUNE_PER_NAMESPACE.rawValue): return .perNamespace
    case UInt32(BPFTUNE_GLOBAL.rawValue): return .global
    default: throw Nonsense("\(what) has the unknown scope \(number)")
    }
  }

  private static func tunable(
    _ said: bpftune_said_tunable, _ what: String
  ) throws(Nonsense) -> Tunable {
    let name = try text(said.name, what)
    guard isTunable(name) else {
      throw Nonsense("\"\(name)\" is no name of one tunable below net.")
    }
    let arity: Tunable.Arity
    switch said.arity {
    case UInt32(BPFTUNE_SCALAR.rawValue): arity = .scalar
    case UInt32(BPFTUNE_TRIPLE.rawValue): arity = .triple
    default: throw Nonsense("\(name) has the unknown arity \(said.arity)")
    }
    guard said.minimum <= said.maximum else {
      throw Nonsense("the bounds of \(name) are \(said.minimum) to \(said.maximum)")
    }
    return Tunable(
      name, arity, try scope(said.scope, name), bounds: said.minimum...said.maximum)
  }

  /// A name that stays below /proc/sys/net, whatever it is.
  public static func isTunable(_ name: String) -> Bool {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    let allowed = { (byte: UInt8) in
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
        || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
        || byte == UInt8(ascii: "_") || byte == UInt8(ascii: "-")
    }
    return parts.count >= 2 && parts[0] == "net" && name.utf8.count < Int(BPFTUNE_SYSCTL_NAME)
      && parts.allSatisfy { !$0.isEmpty && $0.utf8.allSatisfy(allowed) }
  }

  private static func signal(
    _ said: bpftune_said_signal, _ what: String
  ) throws(Nonsense) -> Signal {
    let name = try text(said.name, what)
    var programs: [String] = []
    var names = said.programs
    let all: [Name] = withUnsafeBytes(of: &names) { bytes in
      (0..<Int(BPFTUNE_MOST_PROGRAMS)).map {
        bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Name>.size, as: Name.self)
      }
    }
    for one in all {
      guard withUnsafeBytes(of: one, { $0[0] != 0 }) else { break }
      programs.append(try text(one, "a program of \"\(name)\""))
    }
    guard !programs.isEmpty else { throw Nonsense("no program tells \"\(name)\"") }
    return Signal(name: name, programs: programs)
  }

  /// An array of C, which Swift sees as a tuple, up to a count that was said.
  private static func list<Tuple, Element, Result>(
    _ tuple: Tuple, of type: Element.Type, _ count: UInt32, _ least: Int32, _ most: Int32,
    _ what: String, _ body: (Element, String) throws(Nonsense) -> Result
  ) throws(Nonsense) -> [Result] {
    guard count >= least, count <= most else { throw Nonsense("it has \(count) \(what)") }
    let elements: [Element] = withUnsafeBytes(of: tuple) { bytes in
      (0..<Int(count)).map {
        bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Element>.size, as: type)
      }
    }
    var results: [Result] = []
    for (index, element) in elements.enumerated() {
      results.append(try body(element, "number \(index) of its \(what)"))
    }
    return results
  }

  /// Text of a fixed size, which has to end in it, and to be fit for a terminal.
  static func text<Tuple>(_ tuple: Tuple, _ what: String) throws(Nonsense) -> String {
    let (bytes, size) = withUnsafeBytes(of: tuple) { (Array($0.prefix { $0 != 0 }), $0.count) }
    guard bytes.count < size else { throw Nonsense("\(what) is longer than \(size - 1) bytes") }
    guard !bytes.isEmpty else { throw Nonsense("\(what) is empty") }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw Nonsense("\(what) is not UTF-8")
    }
    let controls = text.unicodeScalars.contains {
      [.control, .format, .lineSeparator, .paragraphSeparator].contains(
        $0.properties.generalCategory)
    }
    guard !controls else { throw Nonsense("\(what) has control characters") }
    return text
  }
}
