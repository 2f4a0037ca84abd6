//! Values instead of text, for callers without the facade. A batch takes several times as long as one of text (ARCHITECTURE,
//! "Decisions").

use serde::Serialize;
use serde_json::Value;
use serde_wasm_bindgen::Serializer;
use wasm_bindgen::prelude::*;

use crate::core::Core;

#[wasm_bindgen]
impl Core {
    /// As `call`, with the parameters as a value; `undefined` for none. Throws when they cannot be JSON.
    #[wasm_bindgen(js_name = callValue)]
    pub fn call_value(
        &mut self,
        id: u32,
        method: String,
        params: JsValue,
        timeout: Option<f64>,
        queue: bool,
    ) -> Result<(), JsError> {
        self.call(id, method, text(params)?, None, timeout, queue);
        Ok(())
    }

    /// As `emit`, with the data as a value; `undefined` for none. Throws when it cannot be JSON.
    #[wasm_bindgen(js_name = emitValue)]
    pub fn emit_value(&mut self, event: &str, data: JsValue, queue: bool) -> Result<(), JsError> {
        self.emit(event, text(data)?, None, queue);
        Ok(())
    }

    /// As `take`, with the array of messages as a value; the bytes they refer to go through `CoreHost.bytes`. `undefined`
    /// when there are none.
    #[wasm_bindgen(js_name = takeValues)]
    pub fn take_values(&mut self) -> Result<JsValue, JsError> {
        let Some(messages) = self.0.take_text() else { return Ok(JsValue::UNDEFINED) };
        let messages: Value = serde_json::from_str(&messages)?;
        Ok(messages.serialize(&Serializer::json_compatible())?)
    }
}

fn text(value: JsValue) -> Result<Option<String>, JsError> {
    if value.is_undefined() {
        return Ok(None);
    }
    let value: Value = serde_wasm_bindgen::from_value(value)?;
    Ok(Some(serde_json::to_string(&value)?))
}
