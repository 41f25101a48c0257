/// Sets of processors as the kernel writes them (`bitmap_string` in
/// lib/vsprintf.c): hexadecimal, 32 to a word, words separated by commas and
/// the highest first, `00000000,00000003`.
enum ProcessorSet {
  /// The set with those added, in the form that the kernel prints; those that it
  /// has no place for are left out. Nil when `text` is no such set.
  static func adding(_ processors: Set<Int>, to text: String) -> String? {
    let words = text.split(separator: ",", omittingEmptySubsequences: false)
    var numbers: [UInt32] = []
    for word in words.reversed() {
      guard let number = UInt32(word, radix: 16) else { return nil }
      numbers.append(number)
    }
    guard let first = words.first else { return nil }
    let bits = (numbers.count - 1) * 32 + first.count * 4
    for processor in processors where (0..<bits).contains(processor) {
      numbers[processor / 32] |= 1 << UInt32(processor % 32)
    }
    return zip(words, numbers.reversed()).map { word, number in
      let digits = String(number, radix: 16)
      return String(repeating: "0", count: max(0, word.count - digits.count)) + digits
    }.joined(separator: ",")
  }
}
