//! Copies of a model, smaller ones most of the time: its weights stored in another type by llama.cpp. A copy of an already quantised file loses
//! a little more than one of the original would; it is for measuring what size buys, and says so in its name.

use std::ffi::CString;
use std::path::Path;

use llama_cpp_sys_2 as sys;

use super::LlmError;

/// Types that can be asked for, by the names that llama.cpp gives them.
const TYPES: &[(&str, sys::llama_ftype)] = &[
    ("Q2_K", sys::LLAMA_FTYPE_MOSTLY_Q2_K),
    ("Q3_K_S", sys::LLAMA_FTYPE_MOSTLY_Q3_K_S),
    ("Q3_K_M", sys::LLAMA_FTYPE_MOSTLY_Q3_K_M),
    ("Q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
    ("Q4_K_M", sys::LLAMA_FTYPE_MOSTLY_Q4_K_M),
    ("Q5_K_M", sys::LLAMA_FTYPE_MOSTLY_Q5_K_M),
    ("Q6_K", sys::LLAMA_FTYPE_MOSTLY_Q6_K),
    ("Q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("F16", sys::LLAMA_FTYPE_MOSTLY_F16),
    ("F32", sys::LLAMA_FTYPE_ALL_F32),
];

/// Writes `from` to `to` with the weights in a type. The copy appears under its name only when it is whole.
///
/// # Errors
/// [`LlmError::Invalid`] for a type that is not known, with those that are; [`LlmError::Unavailable`] when the file is no
/// model or the copy cannot be written.
pub fn quantise(from: &Path, to: &Path, kind: &str) -> Result<(), LlmError> {
    let Some((_, ftype)) = TYPES.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<&str> = TYPES.iter().map(|t| t.0).collect();
        return Err(LlmError::Invalid(format!("no type {kind}; there are: {}", names.join(", "))));
    };
    super::gguf::check(from)?;
    // Else it prints several lines a tensor.
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default().with_logs_enabled(false));
    let draft = to.with_extension("part");
    let refuse = |why: String| LlmError::Unavailable(format!("{} cannot be written as {kind}: {why}", to.display()));
    let c_path = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| refuse(e.to_string()));
    let code = convert(&c_path(from)?, &c_path(&draft)?, *ftype);
    if code != 0 {
        let _ = std::fs::remove_file(&draft);
        return Err(refuse(format!("llama.cpp says {code}; is the disk full?")));
    }
    std::fs::rename(&draft, to).map_err(|e| refuse(e.to_string()))
}

#[allow(unsafe_code)]
fn convert(from: &CString, to: &CString, ftype: sys::llama_ftype) -> u32 {
    // SAFETY: plain data returned by value.
    let mut parameters = unsafe { sys::llama_model_quantize_default_params() };
    parameters.ftype = ftype;
    parameters.allow_requantize = true;
    // SAFETY: both strings end with NUL and outlive the call; the pointers inside the parameters are null by default; the
    // function catches its own exceptions and returns a code.
    unsafe { sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const parameters) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_and_files_that_are_no_models_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("x.gguf"), folder.path().join("y.gguf"));
        std::fs::write(&from, "not a model").unwrap();
        assert!(quantise(&from, &to, "Q99").unwrap_err().to_string().contains("Q2_K"));
        assert!(quantise(&from, &to, "Q8_0").unwrap_err().to_string().contains("not a usable GGUF"));
        assert!(!to.exists());
    }
}
