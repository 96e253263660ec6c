//! Images for measurements: what is in them is made up, but looks like what is in
//! real ones, and is the same each time.

use anyhow::Result;

use super::{Image, Layer, samples::noise};

/// Words of text-like files; with their frequencies they compress about as well
/// as sources do.
const WORDS: [&str; 32] = [
    "the", "return", "function", "if", "value", "self", "import", "error", "of", "struct", "let",
    "index", "{", "}", "(", ")", ";", "\n", "\n    ", " = ", "string", "0x10", "buffer", "static",
    "const", "while", "#", "//", "include", "->", "length", "pointer",
];

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Sizes of files: most are small, and most bytes are in large ones.
    fn size(&mut self) -> usize {
        let scale = 7 + self.below(14);
        (1 << scale) + self.below(1 << scale)
    }
}

/// So many layers of so many bytes each: sources, programs, and what is
/// compressed already.
///
/// # Errors
/// No memory.
pub fn mixed(layers: usize, layer_bytes: usize) -> Result<Image> {
    let mut image = Image::new(&["/nothing"]);
    for number in 0..layers {
        let mut numbers = Numbers(0x9e37_79b9 + number as u64);
        let mut layer = Layer::new();
        let mut written = 0;
        let mut files = 0;
        while written < layer_bytes {
            let folder = format!("layer-{number}/folder-{}", files / 40);
            if files % 40 == 0 {
                layer.folder(&folder, 0o755)?;
            }
            let size = numbers.size().min(layer_bytes - written + 1);
            let (name, bytes) = match numbers.below(10) {
                0..5 => ("text", text(&mut numbers, size)),
                5..8 => ("program", program(&mut numbers, size)),
                _ => ("packed", noise(numbers.next(), size)),
            };
            layer.file(&format!("{folder}/{name}-{files}"), 0o644, &bytes)?;
            files += 1;
            written += size;
        }
        image = image.layer(layer.finish()?);
    }
    Ok(image)
}

/// So many layers with so many small files each.
///
/// # Errors
/// No memory.
pub fn small_files(layers: usize, files: usize) -> Result<Image> {
    let mut image = Image::new(&["/nothing"]);
    for number in 0..layers {
        let mut numbers = Numbers(0x7f4a_7c15 + number as u64);
        let mut layer = Layer::new();
        for file in 0..files {
            let folder = format!("layer-{number}/group-{}/folder-{}", file / 2500, file / 50);
            if file % 50 == 0 {
                layer.folder(&folder, 0o755)?;
            }
            let size = numbers.below(2000);
            let bytes = text(&mut numbers, size);
            layer.file(&format!("{folder}/file-{file}"), 0o644, &bytes)?;
        }
        image = image.layer(layer.finish()?);
    }
    Ok(image)
}

fn text(numbers: &mut Numbers, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        // Some words are more frequent than others.
        let word = numbers.below(WORDS.len()) * numbers.below(WORDS.len()) / WORDS.len();
        bytes.extend(WORDS[word].as_bytes());
        bytes.push(b' ');
        if numbers.below(12) == 0 {
            bytes.extend(format!("name_{} ", numbers.below(5000)).into_bytes());
        }
    }
    bytes.truncate(size);
    bytes
}

/// Records in which some bytes change much and others little, as in code and
/// tables.
fn program(numbers: &mut Numbers, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        let number = numbers.next();
        bytes.extend([0x48, 0x8b, (number & 0x3f) as u8, (number >> 8) as u8]);
        bytes.extend(((number >> 16) as u32 & 0x0003_ffff).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
